"""A run whose folder lost files, or holds damaged ones that are no weights: what messages promise, holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import byte_codec
from tests.run_safety.test_changes import begun
from tests.stages.worlds import QUIET, plain, plan, weights


@pytest.mark.parametrize("is_from_python", [False, True])
def test_a_finished_run_without_its_last_checkpoint_trains_that_stage_again(
    is_from_python: bool, tmp_path: Path
) -> None:
    """As the error about a damaged checkpoint says: remove the folder and run the same command."""

    def settings() -> dict[str, Any]:
        given = {"model": plain(), "tokenizer": byte_codec()} if is_from_python else {}
        return plan(tmp_path, "seed", "given", **given)

    run(settings(), reporter=QUIET)
    before, last = weights(tmp_path), tmp_path / "stages" / "02-given" / "checkpoint"
    (last / "model.safetensors").write_bytes(b"damaged")
    if is_from_python:
        with pytest.raises(CheckpointError, match=r"remove the folder .*02-given/checkpoint and run the"):
            run(settings(), reporter=QUIET)
    shutil.rmtree(last)
    assert run(settings(), reporter=QUIET)["status"] == "completed"
    assert weights(tmp_path) == before


@pytest.mark.parametrize("name", ["initial", "report_cards", "stages"])
def test_what_a_run_without_its_manifest_left_is_not_taken_for_the_next_runs(
    name: str, tmp_path: Path
) -> None:
    """`initial` would have been the next run's first weights, and its report cards the next run's."""
    run(plan(tmp_path, "seed", model=plain(), tokenizer=byte_codec()), reporter=QUIET)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "report_cards").mkdir()
    for other in {"initial", "report_cards", "stages"} - {name}:
        shutil.rmtree(tmp_path / other)
    for fresh in (False, True):
        with pytest.raises(CheckpointError, match=rf"holds {name} but no manifest.*remove .*{name}, or name"):
            run(plan(tmp_path, "seed"), reporter=QUIET, fresh=fresh)
    shutil.rmtree(tmp_path / name)
    again = plan(tmp_path, "seed", model=plain(seed=5), tokenizer=byte_codec())
    run(again, reporter=QUIET)
    run(plan(tmp_path / "whole", "seed", model=plain(seed=5), tokenizer=byte_codec()), reporter=QUIET)
    assert weights(tmp_path) == weights(tmp_path / "whole")


def test_a_fresh_run_that_cannot_remove_the_old_one_does_not_begin(tmp_path: Path, monkeypatch: Any) -> None:
    """What stays would be read as the new run's own."""
    settings = plan(tmp_path, "seed")
    run(settings, reporter=QUIET)

    def refused(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refused)
        with pytest.raises(CheckpointError, match=r"could not be written to: .*stages"):
            run(settings, reporter=QUIET, fresh=True)
    assert run(settings, reporter=QUIET, fresh=True)["status"] == "completed"


@pytest.mark.parametrize("damage", [b'{"schema": 1, "sta', b"\xff\xfe", b"[]"])
def test_a_damaged_summary_is_written_again(damage: bytes, tmp_path: Path) -> None:
    settings = plan(tmp_path, "seed")
    run(settings, reporter=QUIET)
    whole = (tmp_path / "summary.json").read_bytes()
    (tmp_path / "summary.json").write_bytes(damage)
    run(settings, reporter=QUIET)
    assert (tmp_path / "summary.json").read_bytes() == whole


def test_damaged_metric_lines_are_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    settings = begun(plan(tmp_path, "seed", "given"))
    metrics = tmp_path / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole + b'{"stage": "02-given", "step\xff\xfe\n')
    assert run(settings, reporter=QUIET)["status"] == "completed"
    assert metrics.read_bytes().startswith(whole)
    assert b"\xff" not in metrics.read_bytes() and "�".encode() not in metrics.read_bytes()


def test_kept_prompts_that_were_altered_are_named_and_made_again(tmp_path: Path) -> None:
    settings = plan(tmp_path / "run", "text")
    fail = RuntimeError("cut off")

    def cut_off(prompts: list[str], responses: list[str]) -> list[float]:
        raise fail

    settings["stages"][0]["reward"] = cut_off
    with pytest.raises(Exception, match="cut off"):
        run(settings, reporter=QUIET)
    kept = tmp_path / "run" / "stages" / "01-text" / "items" / "prompts.json"
    kept.write_bytes(kept.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"prompts\.json.* was altered .*remove it, and the same"):
        run(settings, reporter=QUIET)
    kept.unlink()
    settings["stages"][0]["reward"] = "tests.stages.worlds:reward"
    run(settings, reporter=QUIET, allow_changed=True)
    run(plan(tmp_path / "whole", "text"), reporter=QUIET)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_damaged_report_card_is_named(tmp_path: Path) -> None:
    judged = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(3)]
    settings = begun(plan(tmp_path, "seed", "own", report_card={"data": judged}))
    card = tmp_path / "report_cards" / "00-start.json"
    whole = card.read_bytes()
    card.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"report card .*00-start\.json was altered .* or remove it"):
        run(settings, reporter=QUIET)
    card.unlink()
    assert run(settings, reporter=QUIET)["status"] == "completed"
    assert card.read_bytes() == whole, "it is taken again, of the model as the run began"

"""A checkpoint that is not what was written is not read, and what its message advises works."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.cli.evaluate_models import contestants
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models import checkpoint_files
from self_rewarding_lm_pytorch.models.checkpoints import load_checkpoint
from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import byte_codec
from tests.stages.worlds import QUIET, hugging_face, plain, plan, rows, weights, without_seconds


class CutOff(RuntimeError):
    """The run ends here, as if its process had."""


def cut_off_after(stage: int) -> Callable[..., None]:
    def hook(env: Any, number: int, config: Any) -> None:
        if number == stage:
            raise CutOff

    return hook


def begun(settings: dict[str, Any], after: int = 1) -> dict[str, Any]:
    with pytest.raises(CutOff):
        run(settings, reporter=QUIET, after_stage=cut_off_after(after))
    return settings


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def checkpoint(folder: Path, stage: str = "01-seed") -> Path:
    return folder / "stages" / stage / "checkpoint" / "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(plan(folder, "seed", "own", "given"), reporter=QUIET)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"has [\d,]+ bytes, but [\d,]+ were written"),
        (alter, r"was altered: its sha256 is \w{64}, but \w{64} was written"),
        (os.unlink, "is missing, which was there"),
    ],
)
def test_a_damaged_checkpoint_stops_the_run_and_removing_it_trains_the_stage_again_to_the_same_weights(
    damage: Any, message: str, whole: Any, tmp_path: Path
) -> None:
    settings = begun(plan(tmp_path, "seed", "own", "given"), after=2)
    file = checkpoint(tmp_path, "02-own")
    before = file.read_bytes()
    damage(file)
    with pytest.raises(CheckpointError, match=f"model.safetensors {message}.*or remove the folder .*02-own"):
        run(settings, reporter=QUIET)
    shutil.rmtree(file.parent)
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    summary = run(settings, reporter=QUIET)
    assert file.read_bytes() == before
    assert weights(tmp_path) == weights(whole[0])
    assert rows(tmp_path) == rows(whole[0])
    assert without_seconds(summary) == without_seconds(whole[1])
    assert {path: path.stat().st_mtime_ns for path in stored} == stored, "trained on what it had stored"


def test_a_damaged_checkpoint_put_back_from_a_copy_is_gone_on_from(whole: Any, tmp_path: Path) -> None:
    settings = begun(plan(tmp_path, "seed", "own", "given"))
    file = checkpoint(tmp_path)
    copy = file.read_bytes()
    alter(file)
    with pytest.raises(CheckpointError, match="Put the file back from a copy"):
        run(settings, reporter=QUIET)
    file.write_bytes(copy)
    run(settings, reporter=QUIET)
    assert weights(tmp_path) == weights(whole[0])


def test_a_copied_run_goes_on_though_all_its_times_differ(whole: Any, tmp_path: Path) -> None:
    settings = begun(plan(tmp_path / "a", "seed", "own", "given"))
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    run({**settings, "run": tmp_path / "b"}, reporter=QUIET)
    assert weights(tmp_path / "b") == weights(whole[0])


def test_checkpoints_that_nothing_ahead_needs_may_be_removed(whole: Any, tmp_path: Path) -> None:
    settings = begun(plan(tmp_path, "seed", "own", "given"), after=2)
    shutil.rmtree(checkpoint(tmp_path).parent)
    run(settings, reporter=QUIET)
    assert weights(tmp_path).items() < weights(whole[0]).items()


def test_a_checkpoint_that_a_later_stage_names_is_made_again_with_those_it_comes_from(tmp_path: Path) -> None:
    settings = plan(tmp_path / "run", "seed", "given", "own", "text")
    settings["stages"][3]["start_from"] = "given"
    run({**settings, "run": tmp_path / "whole"}, reporter=QUIET)
    begun(settings, after=3)
    for stage in ("01-seed", "02-given"):
        shutil.rmtree(checkpoint(tmp_path / "run", stage).parent)
    run(settings, reporter=QUIET)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_past_model_is_checked_when_it_is_asked_for(tmp_path: Path) -> None:
    settings = plan(tmp_path, "seed", "given", "text")
    settings["stages"][2]["start_from"] = "seed"

    def damage(env: Any, number: int, config: Any) -> None:
        if number == 2:
            alter(checkpoint(tmp_path))

    with pytest.raises(CheckpointError, match=r"01-seed/checkpoint/model\.safetensors was altered"):
        run(settings, reporter=QUIET, after_stage=damage)


def test_another_weight_file_in_a_checkpoint_is_not_taken_for_the_runs(tmp_path: Path) -> None:
    settings = begun(plan(tmp_path, "seed", "given"))
    shutil.copy(checkpoint(tmp_path), checkpoint(tmp_path).with_name("other.safetensors"))
    with pytest.raises(CheckpointError, match=r"other\.safetensors was not written by this run"):
        run(settings, reporter=QUIET)


def test_the_weights_a_run_began_with_are_checked_too(tmp_path: Path) -> None:
    def settings(seed: int = 0) -> dict[str, Any]:
        return plan(tmp_path / "run", "seed", "given", model=plain(seed), tokenizer=byte_codec())

    begun(settings())
    initial = tmp_path / "run" / "initial" / "model.safetensors"
    copy = initial.read_bytes()
    alter(initial)
    with pytest.raises(CheckpointError, match=r"initial/model\.safetensors was altered"):
        run(settings(), reporter=QUIET)
    shutil.rmtree(initial.parent)
    with pytest.raises(CheckpointError, match="the model that was given has others"):
        run(settings(seed=3), reporter=QUIET)
    assert run(settings(), reporter=QUIET)["status"] == "completed", "the advice: the same first weights"
    assert initial.read_bytes() == copy


def test_a_finished_run_checks_the_weights_it_gives_back(tmp_path: Path) -> None:
    settings = plan(tmp_path, "seed", model=plain(), tokenizer=byte_codec())
    run(settings, reporter=QUIET)
    alter(checkpoint(tmp_path))
    with pytest.raises(CheckpointError, match="was altered"):
        run(settings, reporter=QUIET)


def test_load_checkpoint_and_evaluate_check_a_runs_checkpoint(tmp_path: Path) -> None:
    run(plan(tmp_path, "seed", "given"), reporter=QUIET)
    found = [each.model for each in contestants(str(tmp_path))]
    found[0].load()
    load_checkpoint(plain(), tmp_path / "stages" / "01-seed")
    alter(checkpoint(tmp_path))
    for read in (found[0].load, lambda: load_checkpoint(plain(), tmp_path / "stages" / "01-seed")):
        with pytest.raises(CheckpointError, match="was altered"):
            read()
    found[1].load()


def test_a_checkpoint_outside_a_run_is_read_as_it_is(tmp_path: Path) -> None:
    run(plan(tmp_path / "run", "seed"), reporter=QUIET)
    shutil.copytree(checkpoint(tmp_path / "run").parent, tmp_path / "mine")
    alter(tmp_path / "mine" / "model.safetensors")
    load_checkpoint(plain(), tmp_path / "mine")


def test_a_large_checkpoint_that_looks_as_written_is_not_read_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files, "_READ_ANYWAY", 10)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x" * 100)
    notes = checkpoint_files.notes_of(tmp_path)
    stat = file.stat()
    file.write_bytes(b"y" * 100)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert checkpoint_files.check_files(tmp_path, notes, "") == notes, "trusted by its size and time"
    file.touch()
    with pytest.raises(CheckpointError, match="was altered"):
        checkpoint_files.check_files(tmp_path, notes, "")


def test_the_manifest_says_what_each_file_of_a_checkpoint_was(tmp_path: Path) -> None:
    import hashlib

    run(plan(tmp_path, "seed", model=hugging_face(), tokenizer=byte_codec()), reporter=QUIET)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    files = manifest["stages"][0]["files"]
    folder = checkpoint(tmp_path).parent
    written = {path.name for path in folder.iterdir()} - {"README.md"}  # the card, which may be written anew
    assert set(files) == written > {"config.json", "model.safetensors"}
    for name, note in files.items():
        assert note["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert note["size"] == (folder / name).stat().st_size
    assert set(manifest["initial"]) >= {"model.safetensors"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.ckpt", "model.pkl", "model.pth"])
def test_a_pickle_where_safetensors_is_due_is_refused_and_its_conversion_works(
    name: str, tmp_path: Path
) -> None:
    torch.save(plain(seed=3).state_dict(), tmp_path / name)
    with pytest.raises(CheckpointError, match="unpickling runs whatever code") as error:
        load_checkpoint(plain(), tmp_path / name)
    with pytest.raises(ConfigError, match="unpickling runs whatever code"):
        load_checkpoint(plain(), tmp_path)
    with pytest.raises(ConfigError, match="unpickling runs whatever code"):
        run(plan(tmp_path / "run", "seed", model=str(tmp_path)), reporter=QUIET)
    assert not (tmp_path / "run").exists()
    code = str(error.value).partition('python -c "')[2].rpartition('"')[0]
    exec(code, {})
    model = plain()
    load_checkpoint(model, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain(seed=3).parameters(), strict=True))


def test_a_stages_training_state_is_gone_once_its_checkpoint_is_there(tmp_path: Path) -> None:
    run(plan(tmp_path, "seed", "own", save_every_seconds=0), reporter=QUIET)
    assert not list(tmp_path.glob("stages/*/state"))

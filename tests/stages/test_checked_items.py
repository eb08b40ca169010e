"""What the check before a run makes of the data is what the stages train on: nothing is encoded twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from self_rewarding_lm_pytorch.callbacks import Callback
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.stages.checked_items import CheckedItems
from self_rewarding_lm_pytorch.stages.items import EXAMPLES, PAIRS
from self_rewarding_lm_pytorch.text import FunctionCodec
from tests.helpers import byte_codec
from tests.run_safety.test_storage import needs_fork, within
from tests.run_safety.worlds import forked
from tests.stages.test_remedies import environment
from tests.stages.worlds import ITEMS, QUIET, STAGES, plain, plan, weights
from tests.stages.worlds import PAIRS as GIVEN

ENCODED: Counter[str] = Counter()


def counted() -> tuple[nn.Module, FunctionCodec]:
    """The plain model, and a tokenizer that counts what it is asked to encode."""

    def encode(text: str) -> list[int]:
        ENCODED[text] += 1
        return list(text.encode())

    return plain(), FunctionCodec(
        encode, lambda ids: bytes(ids.tolist()).decode(errors="replace"), eos_id=0, vocab_size=256
    )


def settings(folder: Path, *names: str) -> dict[str, Any]:
    """Stages on files of their own, so that a text stands in one of them alone."""
    folder.mkdir(exist_ok=True)
    stages = []
    for name in names:
        given = GIVEN if name == "given" else ITEMS
        rows = [{key: f"{name}: {text} {i}" for key, text in row.items()} for i, row in enumerate(given)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        key = "replay" if name == "text" else "data"
        stages.append({"name": name, **STAGES[name], key: str(folder / f"{name}.jsonl")})
    return plan(folder / "run", stages=stages, model="tests.stages.test_checked_items:counted")


def of_files() -> dict[str, int]:
    names = ("seed", "given", "play", "text")
    return {text: n for text, n in ENCODED.items() if text.startswith(tuple(f"{name}: " for name in names))}


def test_no_text_of_a_file_is_encoded_twice_in_a_run(tmp_path: Path) -> None:
    asked = settings(tmp_path, "seed", "given", "play", "text")
    ENCODED.clear()
    run(asked, reporter=QUIET)
    found = of_files()
    assert {text.split(":")[0] for text in found} == {"seed", "given", "play", "text"}
    assert {text: n for text, n in found.items() if n > 1} == {}
    assert not (tmp_path / "run" / ".checked.tmp").exists()


class Stop(Callback):
    """Ends the run as the second stage begins."""

    def on_stage_begin(self, stage: Any) -> None:
        if stage.number == 2:
            raise RuntimeError("cut off")


def test_a_run_that_goes_on_encodes_only_what_no_stage_has_yet(tmp_path: Path) -> None:
    asked = settings(tmp_path, "seed", "given")
    with pytest.raises(RuntimeError, match="cut off"):
        run(asked, reporter=QUIET, callbacks=[Stop()])
    items = next((tmp_path / "run").rglob("items/data.arrow"))
    assert "01-seed" in str(items)
    ENCODED.clear()
    run(asked, reporter=QUIET)
    assert {text.split(":")[0] for text in of_files()} == {"given"}


def test_a_stage_under_way_is_not_checked_again(tmp_path: Path) -> None:
    asked = settings(tmp_path, "seed")
    run(asked, reporter=QUIET)
    manifest = tmp_path / "run" / "manifest.json"
    noted = json.loads(manifest.read_text())
    noted["stages"][0]["state"], noted["status"] = "running", "interrupted"
    manifest.write_text(json.dumps(noted))
    before = weights(tmp_path / "run")
    ENCODED.clear()
    run(asked, reporter=QUIET)
    assert of_files() == {}
    assert weights(tmp_path / "run") == before


def test_a_refused_plan_leaves_nothing_of_its_check(tmp_path: Path) -> None:
    asked = settings(tmp_path, "seed", "given")
    with (tmp_path / "given.jsonl").open("a") as file:
        file.write('\n{"prompt": "q", "chosen": "a"}\n')
    with pytest.raises(ConfigError, match=r"given\.jsonl"):
        run(asked, reporter=QUIET)
    assert not (tmp_path / "run").exists()


def test_items_of_a_check_that_was_killed_are_not_taken_for_those_of_another_file(tmp_path: Path) -> None:
    asked = settings(tmp_path / "asked", "seed")
    left = tmp_path / "asked" / "run" / ".checked.tmp" / "seed" / "items" / "data.arrow"
    other = environment(policy_for(plain()))
    EXAMPLES.write(left, EXAMPLES.each([{"prompt": "old", "response": "old"}], other.policy, byte_codec()))
    run(asked, reporter=QUIET)
    alone = settings(tmp_path / "alone", "seed")
    run(alone, reporter=QUIET)
    assert weights(tmp_path / "asked" / "run") == weights(tmp_path / "alone" / "run")


@needs_fork
def test_a_disk_that_fills_up_during_the_check_is_said(tmp_path: Path) -> None:
    asked = settings(tmp_path, "seed")
    rows = [json.dumps({"prompt": f"{i} " * 60, "response": "so " * 90}) for i in range(200)]
    (tmp_path / "seed.jsonl").write_text("\n".join(rows))
    code, out = forked(within(100_000, lambda: run(asked, reporter=QUIET)), tmp_path)
    assert code == 0, out
    said = " ".join(out.split())
    assert f"the run folder {tmp_path / 'run'} could not be written to" in said
    assert "MiB are free" in said
    assert not (tmp_path / "run").exists()


def test_items_in_memory_are_left_for_their_stage(tmp_path: Path) -> None:
    def untouched() -> Any:
        raise AssertionError("an iterator can be read only once")
        yield

    env = environment(policy_for(plain()))
    env.checked = CheckedItems(tmp_path, {})
    for source in (untouched(), None, [{"prompt": "q"}]):
        EXAMPLES.check(env, "seed", source, "data")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_row_that_is_wrong_is_said_by_the_check(is_kept: bool, tmp_path: Path) -> None:
    path, place = tmp_path / "rows.jsonl", tmp_path / "kept"
    path.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": ""}))
    env = environment(policy_for(plain()))
    env.checked = CheckedItems(place, {}) if is_kept else None
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        PAIRS.check(env, "given", str(path), "data")
    assert not [file for file in place.rglob("*") if file.is_file()]

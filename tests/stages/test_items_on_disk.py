"""Training reads its items from disk, and comes to the same weights as with all of them in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.data import readers
from self_rewarding_lm_pytorch.data.item_file import ItemFile, pairs_in, write_pairs
from self_rewarding_lm_pytorch.data.items import (
    each_example,
    each_given_pair,
    preference_examples,
)
from self_rewarding_lm_pytorch.data.readers import each_row, read_rows
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Example, PairExample, PreferencePair
from self_rewarding_lm_pytorch.stages.base import StageRun
from self_rewarding_lm_pytorch.stages.dpo import PairTraining
from self_rewarding_lm_pytorch.stages.items import EXAMPLES
from self_rewarding_lm_pytorch.stages.pair_items import pair_items
from self_rewarding_lm_pytorch.stages.pairs import train_on_pairs
from self_rewarding_lm_pytorch.training.metrics import MetricsLog
from tests.helpers import byte_codec
from tests.stages.test_remedies import environment
from tests.stages.worlds import ITEMS, PAIRS, QUIET, plain, plan

REPLAY = [Example(torch.arange(3, 9), torch.arange(6) > 2)]


def pairs(number: int = 40) -> list[PairExample]:
    torch.manual_seed(3)
    made = []
    for index in range(number):
        sides = []
        for _ in range(2):
            length = int(torch.randint(3, 12, ()))
            sides.append(Example(torch.randint(1, 99, (length,)), torch.arange(length) > 1))
        made.append(PairExample(index, *sides, margin=index / 7, certainty=1.0 if index % 3 else 0.75))
    return made


def trained(
    folder: Path, items: Sequence[PairExample], replay: Sequence[Example] = (), **settings: Any
) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    env = environment(policy_for(plain()))
    stage = StageRun(env, 1, "own", folder, MetricsLog(folder / "metrics.jsonl", "01-own"))
    given = PairTraining(**{"batch_size": 8, "epochs": 2, "learning_rate": 1e-2, "dropout": 0.1, **settings})
    train_on_pairs(stage, items, given, replay=replay)
    return {name: tensor.clone() for name, tensor in env.policy.module.state_dict().items()}


@pytest.mark.parametrize(
    "changes", [{}, {"reference": "ema", "reference_ema_decay": 0.5, "micro_batch_tokens": 30}]
)
def test_training_on_a_file_is_training_on_the_list_to_the_bit(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    in_memory = pairs()
    write_pairs(tmp_path / "x.arrow", in_memory)
    kept = trained(tmp_path / "list", in_memory, REPLAY, **changes, replay_batch_size=1)
    read = trained(tmp_path / "file", pairs_in(tmp_path / "x.arrow"), REPLAY, **changes, replay_batch_size=1)
    start = plain().state_dict()
    assert any(not torch.equal(kept[name], start[name]) for name in kept), "nothing was trained"
    assert all(torch.equal(kept[name], read[name]) for name in kept)


def test_a_few_steps_read_a_few_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path / "x.arrow", pairs(400))
    made: list[int] = []
    real = ItemFile.at

    def counted(self: ItemFile[Any], place: int) -> Any:
        made.append(place)
        return real(self, place)

    monkeypatch.setattr(ItemFile, "at", counted)
    trained(tmp_path, pairs_in(tmp_path / "x.arrow"), num_steps=3, loss="simpo", reference="none")
    assert 24 <= len(set(made)) <= 24 + 8, "those of the steps, and of the look at the first batch"


def test_a_search_trains_on_the_pairs_of_its_shards_with_their_margins(tmp_path: Path) -> None:
    run(plan(tmp_path, "text"), reporter=QUIET)
    folder = tmp_path / "stages" / "01-text"
    stored = preference_examples(ShardStore(folder).read_all(PreferencePair))
    read = pairs_in(folder / "items" / "pairs.arrow")
    assert [_shown(pair) for pair in read] == [_shown(pair) for pair in stored]
    assert all(pair.margin is not None for pair in read)


def test_pairs_of_an_earlier_attempt_are_written_anew_from_the_shards(tmp_path: Path) -> None:
    env = environment(policy_for(plain()))
    stage = StageRun(env, 1, "own", tmp_path, MetricsLog(tmp_path / "metrics.jsonl", "01-own"))
    stored = [PreferencePair(i, 0, "p", "c", "r", (1, 2), (3 + i,), (9,)) for i in range(3)]
    assert len(pair_items(stage, "pairs", stored[:1])) == 1
    found = pair_items(stage, "pairs", iter(stored), [0.5])
    assert [pair.chosen.ids.tolist() for pair in found] == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
    assert [pair.certainty for pair in found] == [0.5, 1.0, 1.0]


def _shown(pair: PairExample) -> tuple[object, ...]:
    sides = [(side.ids.tolist(), side.is_target.tolist()) for side in (pair.chosen, pair.rejected)]
    return pair.index, sides, pair.margin, pair.certainty


def test_a_file_is_read_as_far_as_its_rows_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\nnot json\n")
    rows = each_row(str(path))
    assert next(rows) == {"prompt": "a", "response": "b"}
    with pytest.raises(DataError, match="line 2"):
        next(rows)
    assert list(each_row({"file": str(path), "limit": 1})) == [{"prompt": "a", "response": "b"}]


@pytest.mark.parametrize(
    "changes", [{}, {"skip": 2}, {"limit": 2}, {"share": 0.4}, {"skip": 1, "share": 0.5, "limit": 2}]
)
def test_an_item_at_a_time_is_all_of_them(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ITEMS)))
    for source in (
        {"file": "rows.jsonl", **changes},
        {"file": ["rows.jsonl", "rows.jsonl"], **changes},
        {"rows": ITEMS, **changes},
        ["rows.jsonl", {"file": "rows.jsonl", **changes}],
        ITEMS,
        iter(ITEMS) if changes else "rows.jsonl",
    ):
        again = list(ITEMS) if not isinstance(source, str | list | dict) else read_rows(source, base=tmp_path)
        assert list(each_row(source, base=tmp_path)) == again


@pytest.mark.parametrize("rows", ["", "\n\n"])
def test_a_source_without_rows_is_an_error_either_way(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(rows)
    for source in (str(path), {"file": str(path)}, {"rows": []}):
        for read in (read_rows, each_row):
            with pytest.raises(DataError, match="nothing to work on"):
                list(read(source))
    with pytest.raises(DataError, match="must be a path, a sequence or an iterable, not int"):
        list(each_row(5))


def test_the_check_before_training_holds_no_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are let go one by one: at no time is there a second one of them."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ITEMS)))
    events: list[str] = []
    real = readers.file_rows

    def told(at: Path) -> Any:
        for row in real(at):
            events.append("read")
            yield row

    def made(*arguments: Any, **named: Any) -> Any:
        for item in each_example(*arguments, **named):
            events.append("made")
            yield item

    monkeypatch.setattr(readers, "file_rows", told)
    kind = replace(EXAMPLES, each=made)
    kind.check(environment(policy_for(plain())), "seed", str(path), "data")
    assert events == ["read", "made"] * len(ITEMS)
    assert len(list(each_given_pair(PAIRS, policy_for(plain()), byte_codec()))) == len(PAIRS)

"""Where there may be a million items, few are held at once, and nothing is computed or logged twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.records import PairExample
from self_rewarding_lm_pytorch.training import batching
from self_rewarding_lm_pytorch.training.metrics import MetricsLog
from self_rewarding_lm_pytorch.training.reference import LiveReference, StoredReference
from self_rewarding_lm_pytorch.training.reference_parts import ReferenceParts
from tests.helpers import recurrent
from tests.training.worlds import pairs


class Lazy(Sequence[PairExample]):
    """Pairs that are made when they are asked for, and of which few may be held at once."""

    def __init__(self, items: list[PairExample]) -> None:
        self._items = items
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: Any) -> Any:
        assert isinstance(place, int)
        self.asked.append(place)
        return self._items[place]

    def __iter__(self) -> Iterator[PairExample]:
        raise AssertionError("all of them at once")


class Counted(LiveReference):
    """Which pairs it was asked about."""

    asked: list[int]

    def __call__(self, batch: Any) -> tuple[Tensor, Tensor]:
        self.asked += batch.index.tolist()
        return super().__call__(batch)


def stored(folder: Path, items: Any, said: list[str] | None = None) -> tuple[StoredReference, list[int]]:
    reference = Counted(recurrent())
    reference.asked = []
    parts = ReferenceParts(folder, len(items), (said if said is not None else []).append)
    found = StoredReference.of(reference, items, micro_batch_size=2, parts=parts)
    return found, reference.asked


def test_a_reference_is_asked_part_by_part_and_no_part_twice(tmp_path: Path, monkeypatch: Any) -> None:
    whole = StoredReference.of(LiveReference(recurrent()), pairs(10), micro_batch_size=2)
    monkeypatch.setattr(batching, "PART", 4)
    first, asked = stored(tmp_path, Lazy(pairs(10)))
    assert [sorted(asked[a:b]) for a, b in ((0, 4), (4, 8), (8, 10))] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [path.name[-17:-12] for path in sorted(tmp_path.iterdir())] == ["00000", "00001", "00002"]
    (tmp_path / "reference-00001.safetensors").unlink()
    second, asked = stored(tmp_path, Lazy(pairs(10)))
    assert sorted(asked) == [4, 5, 6, 7]
    for found in (first, second):
        assert torch.allclose(found._chosen, whole._chosen, atol=1e-5)
        assert torch.allclose(found._rejected, whole._rejected, atol=1e-5)
    known = ReferenceParts(tmp_path, 10, print).read_all()
    assert known is not None and torch.equal(known, torch.stack((first._chosen, first._rejected)))


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_damaged_reference_parts_are_named_and_computed_again(how: str, tmp_path: Path) -> None:
    first, _ = stored(tmp_path, pairs(6))
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content[:-5] if how == "cut" else content)
    said: list[str] = []
    second, asked = stored(tmp_path, pairs(6), said)
    assert sorted(asked) == list(range(6))
    assert str(file) in said[0]
    assert torch.equal(first._chosen, second._chosen)


def test_reference_parts_of_other_pairs_are_not_used(tmp_path: Path) -> None:
    stored(tmp_path, pairs(6))
    assert sorted(stored(tmp_path, pairs(5))[1]) == list(range(5))


def test_an_epochs_order_is_drawn_once_for_all_its_steps(monkeypatch: Any) -> None:
    drawn: list[int] = []
    randperm = torch.randperm

    def counted(count: int, **more: Any) -> Tensor:
        drawn.append(count)
        return randperm(count, **more)

    monkeypatch.setattr(torch, "randperm", counted)
    for step in range(50):
        batching.step_indices(997, 20, step, "an epoch's order")
    assert drawn == [997]


def test_held_out_items_are_read_in_bounded_parts(monkeypatch: Any) -> None:
    monkeypatch.setattr(batching, "PART", 3)
    assert [len(part) for part in batching.bounded_parts(Lazy(pairs(8)))] == [3, 3, 2]
    assert [len(part) for part in batching.bounded_parts(Lazy(pairs(8)), is_whole=True)] == [8]
    assert list(batching.bounded_parts([])) == []


def lines(path: Path) -> list[tuple[str, int]]:
    return [(line["stage"], line["step"]) for line in map(json.loads, path.read_text().splitlines())]


def test_a_log_keeps_the_lines_before_a_state_and_those_of_other_stages(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log, other = MetricsLog(path, "02-it"), MetricsLog(path, "01-it")
    for step in (1, 2):
        other.write(step, 2, {"loss": 1.0})
    for step in (1, 2):  # of a first training
        log.write(step, 2, {"loss": 1.0})
    log.write(1, 3, {"loss": 1.0})  # of a second
    at = log.state()
    log.aside("future").write(1, 1, {"loss": 1.0})
    for step in (2, 3):
        log.write(step, 3, {"loss": 1.0})
    path.write_text(path.read_text() + '{"stage": "02-it", "st')
    again = MetricsLog(path, "02-it")
    again.begin()
    assert len(lines(path)) == 8, "only half a line was dropped"
    again.resume(at)
    again.write(2, 3, {"loss": 1.0})
    kept = [
        ("01-it", 1),
        ("01-it", 2),
        ("02-it", 1),
        ("02-it", 2),
        ("02-it", 1),
        ("02-it/future", 1),
        ("02-it", 2),
    ]
    assert lines(path) == kept
    again.begin(0)
    assert lines(path) == [("01-it", 1), ("01-it", 2), ("02-it/future", 1)]

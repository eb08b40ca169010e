"""A damaged shard is not read; deleted, it is made again, and nothing of another one is mixed in."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.interrupts import Interrupted, deferred
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair
from tests.helpers import candidate
from tests.stages.worlds import QUIET, plan, rows, weights, without_seconds

KINDS: dict[str, Any] = {"candidates": Candidate, "judgments": Judgment, "pairs": PreferencePair}


class Counted:
    """A reward that ends the run at a call, once."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return [float(sum(map(ord, text)) % 7) for text in responses]


def settings(folder: Path, call: int = 0) -> dict[str, Any]:
    found = plan(folder, "text")
    found["stages"][0]["reward"] = Counted(call)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(settings(folder), reporter=QUIET)


def cut_off(folder: Path) -> ShardStore:
    """Two shards are whole, of the third the candidates."""
    with pytest.raises(KeyboardInterrupt):
        run(settings(folder, call=3), reporter=QUIET)
    return ShardStore(folder / "stages" / "01-text")


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 0x10  # in the first page; most of so small a file is its footer
    path.write_bytes(data)


def change_a_row(path: Path) -> None:
    table = pq.read_table(path)
    column = table.column("visit").to_pylist()
    table = table.set_column(
        table.schema.get_field_index("visit"), "visit", [[value + 1 for value in column]]
    )
    pq.write_table(table, path)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: path.write_bytes(b""),
        flip_a_byte,
        change_a_row,
    ],
    ids=["cut", "emptied", "a bit flipped", "a row changed"],
)
def test_a_damaged_shard_is_named_and_deleting_it_makes_it_again_equal(
    kind: str, damage: Any, whole: Any, tmp_path: Path
) -> None:
    store = cut_off(tmp_path)
    file = store.path(KINDS[kind], 0)
    damage(file)
    with pytest.raises(CheckpointError, match=rf"{kind}/00000\.parquet (is truncated|was).*Delete this file"):
        store.read(KINDS[kind], 0)
    file.unlink()
    summary = run(settings(tmp_path), reporter=QUIET)
    assert rows(tmp_path) == rows(whole[0])
    assert weights(tmp_path) == weights(whole[0])
    assert without_seconds(summary) == without_seconds(whole[1])


def test_a_run_that_comes_upon_a_damaged_shard_stops_in_words(tmp_path: Path) -> None:
    store = cut_off(tmp_path)
    flip_a_byte(store.path(PreferencePair, 0))
    with pytest.raises(CheckpointError, match=r"pairs/00000\.parquet"):
        run(settings(tmp_path), reporter=QUIET)


def test_whatever_bit_is_flipped_a_shard_is_refused_or_says_what_was_written(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    written = [candidate(0, 0, "so"), candidate(1, 0, "it is", visit=2)]
    store.write(Candidate, 0, written, {"seconds": 1.5})
    path = store.path(Candidate, 0)
    data, refused = path.read_bytes(), 0
    for place in range(0, len(data), 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            assert store.read(Candidate, 0) == written
        except CheckpointError:
            refused += 1
    assert refused > 20


def judgment(score: float) -> Judgment:
    return Judgment(0, 0, 0, score)


def test_judgments_of_other_candidates_do_not_count_and_are_not_kept(tmp_path: Path) -> None:
    """As where candidates are sampled again on another machine, which may round otherwise."""
    store = ShardStore(tmp_path)
    store.write(Candidate, 0, [candidate(0, 0, "so")], {})
    store.write(Judgment, 0, [judgment(1.0)], {})
    store.write(PreferencePair, 0, [], {})
    assert store.has(PreferencePair, 0)
    store.path(Candidate, 0).unlink()
    assert not store.has(Judgment, 0)
    assert not store.has(PreferencePair, 0)
    store.write(Candidate, 0, [candidate(0, 0, "so")], {"seconds": 5.0})
    assert store.has(Judgment, 0), "the same candidates: the judgments are theirs"
    assert store.has(PreferencePair, 0)
    store.path(Candidate, 0).unlink()
    store.write(Candidate, 0, [candidate(0, 0, "else")], {})
    assert not store.has(Judgment, 0)
    assert not store.path(Judgment, 0).exists()
    assert not store.path(PreferencePair, 0).exists()


def test_pairs_of_other_judgments_do_not_count(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.write(Candidate, 0, [candidate(0, 0)], {})
    store.write(Judgment, 0, [judgment(1.0)], {})
    store.write(PreferencePair, 0, [], {})
    store.write(Judgment, 0, [judgment(2.0)], {})
    assert store.has(Judgment, 0)
    assert not store.has(PreferencePair, 0)


def test_pairs_alone_need_nothing_else(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.write(PreferencePair, 0, [], {})
    store.write(Judgment, 1, [judgment(1.0)], {})
    assert store.has(PreferencePair, 0)
    assert store.has(Judgment, 1)


def test_a_run_that_was_asked_to_end_ends_when_the_shard_is_stored(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    with pytest.raises(Interrupted), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        store.write(Candidate, 0, [candidate(0, 0)], {})
    assert store.read(Candidate, 0) == [candidate(0, 0)]


def test_notes_that_are_no_longer_json_are_damage(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.write(Candidate, 0, [candidate(0, 0)], {"seconds": 1})
    path = store.path(Candidate, 0)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"notes": "{"}), path)
    with pytest.raises(CheckpointError, match="truncated or altered"):
        store.notes(Candidate, 0)

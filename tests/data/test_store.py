"""The Parquet store: what is written comes back, and a shard is there whole or not at all."""

import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.data.files import write_atomically, write_folder, write_json, write_text
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote
from self_rewarding_lm_pytorch.seeds import address

CANDIDATE = Candidate(3, 1, 0, (5, 6, 0), "naïve 漢字 🙂\n\x00end", "eos", address("largest"), "M1")
JUDGMENT = Judgment(
    3,
    1,
    0,
    3.5,
    (
        Vote(0, "Score: 3", 3.0, "parsed"),
        Vote(1, "no idea", None, "unparsed", "no_score", "length"),
        Vote(1, "", 4.0, "forced"),
        Vote(2, "", 2.625, "expected", probabilities=(0.125, 1 / 3, 0.5, 1 / 24)),
    ),
)
UNSCORED = Judgment(3, 1, 1, None, (), "judge prompt of 600 tokens is over its limit of 512")
PAIR = PreferencePair(3, 1, "why?", "so", "", (1, 2), (3,), (), 0, 2, 4.0, 1.5)
GIVEN_PAIR = PreferencePair(0, 0, "", "a", "b", (), (1,), (2,))


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (Candidate, [CANDIDATE, Candidate(0, 0, 3, (), "", "length", 0, "")]),
        (Judgment, [JUDGMENT, UNSCORED]),
        (PreferencePair, [PAIR, GIVEN_PAIR]),
        (Candidate, []),
        (Judgment, []),
    ],
)
def test_records_come_back_equal(kind: Any, rows: list[Any], tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.write(kind, 0, rows, {})
    assert store.read(kind, 0) == rows
    assert store.has(kind, 0)


@settings(max_examples=20, deadline=None)
@given(
    text=st.text(max_size=30),
    ids=st.lists(st.integers(0, 2**31 - 1), max_size=6),
    key=st.integers(0, 2**63 - 1),
    score=st.none() | st.floats(allow_nan=False),
)
def test_any_text_ids_key_and_score_come_back(
    text: str, ids: list[int], key: int, score: float | None, tmp_path_factory: Any
) -> None:
    store = ShardStore(tmp_path_factory.mktemp("store"))
    candidate = Candidate(0, 0, 0, tuple(ids), text, "length", key, "policy")
    judgment = Judgment(0, 0, 0, score, (Vote(0, text, score, "parsed"),), text)
    store.write(Candidate, 0, [candidate], {})
    store.write(Judgment, 0, [judgment], {})
    assert store.read(Candidate, 0) == [candidate]
    assert store.read(Judgment, 0) == [judgment]


def test_absent_is_not_zero_on_disk_either(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.write(Judgment, 0, [UNSCORED, Judgment(0, 0, 0, 0.0), Judgment(0, 0, 1, math.nan)], {})
    scores = pq.read_table(store.path(Judgment, 0))["score"].to_pylist()
    assert scores[:2] == [None, 0.0]
    assert math.isnan(scores[2])


def test_a_shard_from_before_probabilities_were_kept_is_read_without_them(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    judgment = Judgment(0, 0, 0, 3.0, (Vote(0, "Score: 3", 3.0, "parsed"),))
    store.write(Judgment, 0, [judgment], {})
    rows = pq.read_table(store.path(Judgment, 0)).to_pylist()
    rows[0]["votes"][0].pop("probabilities")
    pq.write_table(pa.Table.from_pylist(rows), store.path(Judgment, 0))
    assert store.read(Judgment, 0) == [judgment]


def test_notes_travel_in_the_shard(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    notes = {"token_budget": 65_536, "seconds": 1.5, "names": ["é"], "none": None}
    store.write(Candidate, 2, [CANDIDATE], notes)
    assert store.notes(Candidate, 2) == notes


def test_shards_are_read_in_order_up_to_the_first_gap(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    for shard in (1, 0, 3):
        store.write(Candidate, shard, [Candidate(shard, 0, 0, (), "", "eos", 0, "")], {})
    assert store.num_shards(Candidate) == 2
    assert [c.prompt_index for c in store.read_all(Candidate)] == [0, 1]
    assert store.num_shards(Judgment) == 0
    assert store.read_all(Judgment) == []


def test_a_half_written_shard_does_not_exist(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.write(Candidate, 0, [CANDIDATE], {})
    whole = store.path(Candidate, 0)
    left_over = whole.with_name(".00001.parquet.tmp")
    left_over.write_bytes(whole.read_bytes()[:100])
    assert store.num_shards(Candidate) == 1
    assert not store.has(Candidate, 1)
    assert store.read_all(Candidate) == [CANDIDATE]
    store.write(Candidate, 1, [CANDIDATE], {})
    assert store.num_shards(Candidate) == 2
    assert not left_over.exists()


def test_writing_a_shard_again_replaces_it(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.write(Candidate, 0, [CANDIDATE, CANDIDATE], {"n": 2})
    store.write(Candidate, 0, [CANDIDATE], {"n": 1})
    assert store.read(Candidate, 0) == [CANDIDATE]
    assert store.notes(Candidate, 0) == {"n": 1}


@pytest.mark.parametrize("folder", ["beta=0.1", "visit=3/_hidden", ".run", "with space & ünïcode"])
def test_the_runs_folder_may_have_any_name(folder: str, tmp_path: Path) -> None:
    """Parquet readers take `name=value` folders for columns and skip hidden ones, unless told not to."""
    store = ShardStore(tmp_path / folder)
    store.write(Candidate, 0, [CANDIDATE], {"a": 1})
    assert store.read_all(Candidate) == [CANDIDATE]
    assert store.notes(Candidate, 0) == {"a": 1}


def test_any_parquet_reader_can_read_a_shard(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.write(PreferencePair, 0, [PAIR], {})
    (row,) = pq.read_table(store.path(PreferencePair, 0)).to_pylist()
    assert (row["prompt"], row["chosen"], row["rejected"], row["chosen_score"]) == ("why?", "so", "", 4.0)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_atomically(path, fails)
    assert path.read_text() == "old"


def test_folders_are_made_and_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "text.txt", "漢字")
    assert (tmp_path / "a" / "b" / "text.txt").read_bytes() == "漢字".encode()
    write_json(tmp_path / "a" / "value.json", {"ü": [1, None]})
    assert (tmp_path / "a" / "value.json").read_text(encoding="utf-8") == (
        '{\n  "ü": [\n    1,\n    null\n  ]\n}\n'
    )


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_folder(folder, lambda place: write_text(place / "old.txt", "old"))

    def fails(place: Path) -> None:
        (place / "half.txt").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_folder(folder, fails)
    assert sorted(p.name for p in folder.iterdir()) == ["old.txt"]
    write_folder(folder, lambda place: write_text(place / "sub" / "new.txt", "new"))
    assert sorted(p.name for p in folder.rglob("*")) == ["new.txt", "sub"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    """The order that survives a power cut: write, fsync, rename."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *args: (done.append("rename"), replace(*args)))
    write_text(tmp_path / "file.txt", "text")
    assert done[:2] == ["fsync", "rename"]

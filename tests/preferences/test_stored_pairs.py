"""A search holds counts, not pairs: what it found is read from its shards, one at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.preferences.shards import Left, Shards
from self_rewarding_lm_pytorch.preferences.stored_pairs import StoredPairs
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Prompt
from tests.preferences.test_search import by_place, search, ties


class Watched(ShardStore):
    """Remembers which shards were opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.opened: list[tuple[str, int]] = []

    def read(self, kind: Any, shard: int) -> Any:
        self.opened.append((kind.__name__, shard))
        return super().read(kind, shard)


def pair(number: int) -> PreferencePair:
    return PreferencePair(number, 0, f"p{number}", "a", "b", (1,), (2,), (number,), 0, 1, 2.0, 1.0)


def test_to_read_one_pair_of_a_hundred_shards_opens_one_shard(tmp_path: Path) -> None:
    store = Watched(tmp_path)
    counts = [number % 3 for number in range(100)]
    pairs = [pair(number) for number in range(sum(counts))]
    left = iter(pairs)
    for shard, count in enumerate(counts):
        store.write(PreferencePair, shard, [next(left) for _ in range(count)], {})
    stored = StoredPairs(store, counts)
    assert store.opened == []
    assert len(stored) == 99
    assert stored[42] == pairs[42]
    assert len(store.opened) == 1
    assert stored[42] == stored[-57]
    assert len(store.opened) == 1, "the last shard read is held"
    store.opened.clear()
    assert list(stored) == pairs
    assert len(store.opened) <= 100
    assert stored[40:45] == pairs[40:45]
    assert list(StoredPairs.of(store)) == pairs


def test_what_a_search_gives_is_read_from_its_shards_and_not_held(tmp_path: Path) -> None:
    found = search(tmp_path, by_place, num_pairs=10, shard_size=2)
    pairs = found.run()
    expected = ShardStore(tmp_path).read_all(PreferencePair)
    assert list(pairs) == expected
    store = ShardStore(tmp_path)
    for shard in range(store.num_shards(PreferencePair)):
        store.path(PreferencePair, shard).unlink()
    with pytest.raises(Exception, match=r"00000\.parquet"):
        list(pairs)


def test_blocks_of_a_search_are_each_their_own_pairs(tmp_path: Path) -> None:
    blocks = search(tmp_path, by_place, shard_size=2)
    first, second = list(blocks.more(3)), list(blocks.more(4))
    assert (len(first), len(second)) == (3, 4)
    assert first + second == ShardStore(tmp_path).read_all(PreferencePair)


@pytest.mark.parametrize("kind", ["all", "none", "some"])
def test_skipped_json_is_what_a_plain_writer_would_write(tmp_path: Path, kind: str) -> None:
    """The text has what JSON leaves as it is and Python counts as the end of a line."""
    texts = ["one\u2028two", "three\x85four", 'say "no"\n', "fünf", "p"]
    prompts = [Prompt(number, text, (1, number + 1)) for number, text in enumerate(texts)]

    def reward(shown: list[str], responses: list[str]) -> list[float]:
        given = by_place if kind == "none" else ties
        odd = by_place(shown, responses)
        return [
            o if kind == "some" and p == "p" else g
            for p, o, g in zip(shown, odd, given(shown, responses), strict=True)
        ]

    found = search(tmp_path, reward, prompts=prompts, shard_size=2)
    if kind == "all":
        with pytest.raises(Exception, match="no preference pair"):
            found.run()
    else:
        found.run()
    written = (tmp_path / "skipped.json").read_text(encoding="utf-8")
    read = json.loads(written)
    assert written == json.dumps(read, indent=2, ensure_ascii=False) + "\n"
    assert read["counts"] == ({} if kind == "none" else {"tie": 5 if kind == "all" else 4})
    assert len(read["visits"]) == sum(read["counts"].values())
    assert all(visit["prompt"] == texts[visit["prompt_index"]] for visit in read["visits"])


def test_a_recycled_shard_opens_only_the_shards_that_hold_its_candidates(tmp_path: Path) -> None:
    store = Watched(tmp_path)
    for shard in range(4):
        made = [Candidate(shard, 0, i, (i,), "x", "eos", 10 * shard + i, "own") for i in range(2)]
        store.write(Candidate, shard, made, {})
        store.write(Judgment, shard, [Judgment(shard, 0, i, float(i)) for i in range(2)], {})
    shards = Shards(None, None, None, store, Reporter(quiet=True))
    pools = shards.pools([[Left(3, 3, 0)], [], [Left(1, 1, 0), Left(3, 3, 0)]])
    assert [[candidate.key for candidate in own] for own, _ in pools] == [[30, 31], [], [10, 11, 30, 31]]
    assert [[judgment.prompt_index for judgment in own] for _, own in pools] == [[3, 3], [], [1, 1, 3, 3]]
    assert {shard for _, shard in store.opened} == {1, 3}

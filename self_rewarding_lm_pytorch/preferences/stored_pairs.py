"""The pairs of a search where they are stored, read one shard at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from self_rewarding_lm_pytorch.data.lazy import Lazy
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import PreferencePair


class StoredPairs(Lazy[PreferencePair]):
    """Pairs in the order they were found, of which one shard is held at a time.

    counts: how many each shard has, of the shards in a row from `first`.
    """

    def __init__(self, store: ShardStore, counts: Sequence[int], first: int = 0) -> None:
        self._store = store
        self._first = first
        self._ends = list(accumulate(counts))
        self._held: tuple[int, list[PreferencePair]] = (-1, [])

    @classmethod
    def of(cls, store: ShardStore) -> StoredPairs:
        """All that the store has."""
        shards = range(store.num_shards(PreferencePair))
        return cls(store, [len(store.read(PreferencePair, shard)) for shard in shards])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def at(self, place: int) -> PreferencePair:
        number = bisect_right(self._ends, place)
        return self._shard(number)[place - (self._ends[number - 1] if number else 0)]

    def __iter__(self) -> Iterator[PreferencePair]:
        for number in range(len(self._ends)):
            yield from self._shard(number)

    def _shard(self, number: int) -> list[PreferencePair]:
        if self._held[0] != number:
            self._held = number, self._store.read(PreferencePair, self._first + number)
        return self._held[1]

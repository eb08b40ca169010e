"""Who is told what each shard of a search came to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from self_rewarding_lm_pytorch.preferences.yields import Yield
from self_rewarding_lm_pytorch.records import Candidate, Judgment


class Watcher(Protocol):
    """Counts, and may end the run by an exception; told in the order of the shards, stored before or not."""

    def judged(
        self,
        shard: int,
        candidates: Sequence[Candidate],
        judgments: Sequence[Judgment],
        again: Collection[int] = (),
    ) -> None:
        """A stored shard, from 0. again: the `key` of candidates that earlier visits had left."""
        ...

    def paired(self, shard: int, counts: Yield, asked: int | None) -> None:
        """All shards' yield up to this one. asked: pairs; None: each prompt is visited once."""
        ...

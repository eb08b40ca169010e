"""A call's requests divided among the processes of a run; nobody waits for another while decoding."""

from __future__ import annotations

from collections.abc import Sequence

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.generation.requests import Completion, Generator, OnProgress, Request
from self_rewarding_lm_pytorch.generation.sampling import Sampling


class SplitGenerator:
    """Every process continues its own part of the requests and learns what the others wrote at the end.

    A part is a row of requests, as those that share their beginnings stand together.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, on_progress: OnProgress | None = None
    ) -> list[list[Completion]]:
        own = requests[processes.own_part(len(requests))]
        counted = Counted(on_progress)
        parts = processes.each(
            lambda: self._generator.generate(own, sampling, on_progress=counted.add) if own else []
        )
        counted.add_others()
        return [completions for part in parts for completions in part]


class Counted:
    """Progress of this process at once, that of the others when all have finished."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._done = self._tokens = 0

    def add(self, done: int, tokens: int) -> None:
        self._done += done
        self._tokens += tokens
        if self._on_progress is not None:
            self._on_progress(done, tokens)

    def add_others(self) -> None:
        totals = processes.gathered((self._done, self._tokens))
        done, tokens = (sum(column) for column in zip(*totals, strict=True))
        if self._on_progress is not None:
            self._on_progress(done - self._done, tokens - self._tokens)

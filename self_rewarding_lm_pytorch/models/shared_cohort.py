"""Rows of a shared cache that joined together: what each sees, and where its own tokens lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.caches import Tokens
from self_rewarding_lm_pytorch.models.cascade import Fold, Segments, Span


@dataclass(frozen=True, eq=False)
class Level:
    """Segments as the rows of a cohort see them."""

    segments: Segments
    span: Span
    fold: Fold


class Runs:
    """Runs of tokens that rows share: prompts, or what several prompts begin with."""

    def __init__(self, starts: Tensor, runs: Sequence[Tokens], device: torch.device) -> None:
        """starts: position of each run's first token, int64 on the CPU."""
        self.starts = starts
        self.lengths = torch.tensor([len(run) for run in runs])
        self.segments = Segments(len(runs), int(self.lengths.max()))
        self._device = device

    def keep_those_of(self, rows: Tensor) -> Tensor:
        """Drops the runs that none of these has; returns the new number of each one's run."""
        renumbered: Tensor
        used, renumbered = rows.unique(return_inverse=True)
        if len(used) == self.segments.count:
            return rows
        self.segments.select(used.to(self._device), len(used))
        self.starts, self.lengths = self.starts[used], self.lengths[used]
        return renumbered

    @property
    def span(self) -> Span:
        is_even = bool((self.lengths == self.segments.room).all())
        return Span(self.starts.to(self._device), None if is_even else self.lengths.to(self._device))

    def level(self, rows: Tensor) -> Level:
        """rows: the run of each."""
        return Level(self.segments, self.span, Fold(rows, self.segments.count, self._device))


class SharedCohort:
    """Rows admitted together: their prompts, what these begin with, and as many own tokens in each.

    Each row's own tokens have a slot; room is made at once for all the rows there may be, which take
    the lowest free slots as rows branch.
    """

    def __init__(self, stems: Runs | None, stem: Tensor, prompts: Runs, copies: int, room: int) -> None:
        """stem: int64 on the CPU, the stem of each prompt."""
        self.stems = stems
        self.prompts = prompts
        self.tails = Segments(copies, room)
        self.length = 0  # own tokens so far
        self._stem = stem
        self._device = prompts.span.offsets.device
        self._prompt = torch.arange(len(stem))  # of each row
        self._slots = torch.arange(len(stem))
        self._settle()

    @property
    def num_rows(self) -> int:
        return len(self._prompt)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Each row's next key and value, (rows, h, 1, d)."""
        for store, new in zip(self.tails.layer(layer, keys, values), (keys, values), strict=True):
            store[self._where, :, self.length] = new[:, :, 0]

    def keep(self, rows: Tensor, copies: int) -> None:
        """rows: in ascending order, perhaps repeated; copies: how many there may still be."""
        if copies == self.tails.count and torch.equal(rows, torch.arange(self.num_rows)):
            return
        self._prompt, slots = self._prompt[rows], self._slots[rows]
        if min(len(rows), copies) <= 0.75 * self._used or copies <= 0.75 * self.tails.count:
            # A quarter of what is looked at, or held, is no longer needed: worth a copy.
            self.tails.select(slots.to(self._device), copies)
            self._slots = torch.arange(len(rows))
            self._stem = self._stem[self._prompt.unique()]
            self._prompt = self.prompts.keep_those_of(self._prompt)
            if self.stems is not None:
                self._stem = self.stems.keep_those_of(self._stem)
        else:
            self._slots = self._branched(slots, rows)
        self._settle()

    def _branched(self, slots: Tensor, rows: Tensor) -> Tensor:
        """The slots of rows of which some are repeated: their copies go to free ones."""
        if not self.length:
            return torch.arange(len(rows))  # nothing is in them yet
        repeated = torch.zeros(len(rows), dtype=torch.bool)
        repeated[1:] = rows[1:] == rows[:-1]
        if bool(repeated.any()):
            is_free = torch.ones(self.tails.count, dtype=torch.bool)
            is_free[slots] = False
            free = is_free.nonzero()[: int(repeated.sum()), 0]
            self.tails.copy(slots[repeated].to(self._device), free.to(self._device), self.length)
            slots = slots.masked_scatter(repeated, free)
        return slots

    def _settle(self) -> None:
        """What each step needs, worked out when rows change."""
        self._used = int(self._slots.max()) + 1
        is_in_order = torch.equal(self._slots, torch.arange(self.num_rows))
        self._where = slice(0, self.num_rows) if is_in_order else self._slots.to(self._device)
        ends = (self.prompts.starts + self.prompts.lengths)[self._prompt]
        self.offsets = ends.to(self._device)  # first own position of each row
        shared = [self.prompts.level(self._prompt)]
        if self.stems is not None:
            shared.append(self.stems.level(self._stem[self._prompt]))
        fold = Fold(self._slots, self._used, self._device)
        self.levels = [*shared, Level(self.tails, Span(fold.spread(self.offsets)[:, 0]), fold)]

    @property
    def positions(self) -> int:
        held = [self.prompts.segments, self.tails, *([self.stems.segments] if self.stems is not None else [])]
        return sum(segments.count * segments.room for segments in held)

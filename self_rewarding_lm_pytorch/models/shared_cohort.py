"""Rows of a shared cache that joined together: whose prompt each sees, and where its own tokens lie."""

from __future__ import annotations

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.cascade import Fold, Segments, Span


class SharedCohort:
    """Rows admitted together: their prompts, and as many own tokens in each.

    Each row's own tokens have a slot; room is made at once for all the rows there may be, which take
    the lowest free slots as rows branch.
    """

    def __init__(self, start: int, lengths: Tensor, copies: int, room: int, device: torch.device) -> None:
        """start: position of the prompts' first token; lengths: of the prompts, int64 on the CPU."""
        self.prompts = Segments(len(lengths), int(lengths.max()))
        self.tails = Segments(copies, room)
        self.length = 0  # own tokens so far
        self._start = start
        self._lengths = lengths
        self._device = device
        self._prompt = torch.arange(len(lengths))  # of each row
        self._slots = torch.arange(len(lengths))
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
            self._drop_prompts_without_rows()
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

    def _drop_prompts_without_rows(self) -> None:
        used, renumbered = self._prompt.unique(return_inverse=True)
        if len(used) < self.prompts.count:
            self.prompts.select(used.to(self._device), len(used))
            self._lengths = self._lengths[used]
            self._prompt = renumbered

    def _settle(self) -> None:
        """What each step needs, worked out when rows change."""
        device, lengths = self._device, self._lengths
        self._used = int(self._slots.max()) + 1
        is_in_order = torch.equal(self._slots, torch.arange(self.num_rows))
        self._where = slice(0, self.num_rows) if is_in_order else self._slots.to(device)
        self.prompt_fold = Fold(self._prompt, self.prompts.count, device)
        self.tail_fold = Fold(self._slots, self._used, device)
        self.offsets = (self._start + lengths)[self._prompt].to(device)  # first own position of each row
        is_even = bool((lengths == self.prompts.room).all())
        starts = torch.full_like(lengths, self._start, device=device)
        self.prompt_span = Span(starts, None if is_even else lengths.to(device))
        self.tail_span = Span(self.tail_fold.spread(self.offsets)[:, 0])

    @property
    def positions(self) -> int:
        return self.prompts.count * self.prompts.room + self.tails.count * self.tails.room

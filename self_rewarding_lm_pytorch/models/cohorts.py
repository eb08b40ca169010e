"""For models whose own cache is a batch of rows of equal width: each cohort is a batch of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.caches import Cache, Tokens, by_cohort

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.models.policy import Policy


CPU_ROWS = 64
"""Rows of a batch on a CPU: more gain nothing, and their keys no longer fit what the CPU keeps at hand."""


class Slots:
    """Which of a batch's slots hold rows that are still under way.

    Taking rows out of tensors costs a copy, so it waits until a quarter has ended.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.count = count
        self.live = torch.arange(count)  # slot of each row, ascending
        self._device = device
        self._on_device: Tensor | None = None  # None: every slot is live

    def keep(self, rows: Tensor) -> Tensor | None:
        """Only these rows stay; returns the slots to select now, or None while the copy can wait."""
        self.live = self.live[rows]
        if len(rows) > 0.75 * self.count:
            self._on_device = self.live.to(self._device) if len(rows) < self.count else None
            return None
        selected = self.live.to(self._device)
        self.count = len(rows)
        self.live = torch.arange(self.count)
        self._on_device = None
        return selected

    def spread(self, rows: Tensor) -> Tensor:
        """(rows, ...) -> (slots, ...), zeros where a row has ended."""
        if self._on_device is None:
            return rows
        return rows.new_zeros((self.count, *rows.shape[1:])).index_copy_(0, self._on_device, rows)

    def gather(self, slots: Tensor) -> Tensor:
        """(slots, ...) -> (rows, ...)."""
        return slots if self._on_device is None else slots[self._on_device]


class Cohort(ABC):
    """A batch in the model's own cache, one row in each slot."""

    @abstractmethod
    def extend(self, tokens: Tensor) -> Tensor:
        """Reads one more token in each slot, int64 (slots,); returns the next logits, (slots, V)."""

    @abstractmethod
    def select(self, slots: Tensor) -> None:
        """Only these slots stay, or are repeated; int64 on the device."""


class CohortCache(Cache):
    """One forward pass for each cohort at each step."""

    can_branch = False

    def __init__(self, policy: Policy, prefix: Tokens = ()) -> None:
        super().__init__(policy, prefix)
        self._cohorts: list[tuple[Cohort, Slots, int]] = []  # the last: positions of a slot

    @abstractmethod
    def start(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> tuple[Tensor, Cohort]:
        """Reads the prompts; returns the logits after each, and a cohort with copies[i] slots of prompt i."""

    def add(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> Tensor:
        parts = []
        for own in self._batches(copies):
            logits, cohort = self.start(prompts[own], copies[own], room)
            parts.append(logits)
            if any(copies[own]):
                width = max(map(len, prompts[own])) + room
                self._cohorts.append((cohort, Slots(sum(copies[own]), self.policy.device), width))
        return torch.cat(parts)

    def _batches(self, copies: Sequence[int]) -> list[slice]:
        """Neighbouring prompts that make a cohort: all, but on a CPU only some rows."""
        if self.policy.device.type != "cpu":
            return [slice(0, len(copies))]
        found, start, rows = [], 0, 0
        for place, own in enumerate(copies):
            if place > start and rows + own > CPU_ROWS:
                found.append(slice(start, place))
                start, rows = place, 0
            rows += own
        return [*found, slice(start, len(copies))]

    def extend(self, tokens: Tensor) -> Tensor:
        parts = tokens.split([len(slots.live) for _, slots, _ in self._cohorts])
        logits = [
            slots.gather(cohort.extend(slots.spread(own)))
            for (cohort, slots, _), own in zip(self._cohorts, parts, strict=True)
        ]
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def keep(self, rows: Tensor, copies: Tensor) -> None:
        parts = by_cohort(rows, [len(slots.live) for _, slots, _ in self._cohorts])
        alive = [(each, own) for each, own in zip(self._cohorts, parts, strict=True) if len(own)]
        for (cohort, slots, _), own in alive:
            if len(own) < len(slots.live) and (selected := slots.keep(own)) is not None:
                cohort.select(selected)
        self._cohorts = [each for each, _ in alive]

    @property
    def num_rows(self) -> int:
        return sum(len(slots.live) for _, slots, _ in self._cohorts)

    @property
    def positions(self) -> int:
        return sum(slots.count * width for _, slots, width in self._cohorts)

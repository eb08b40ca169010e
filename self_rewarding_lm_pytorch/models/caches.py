"""What a policy remembers of the rows it is continuing, and the slow path that remembers only ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.models.policy import Policy

Tokens = Sequence[int]

READ_AT_ONCE = 1024
"""Prompt tokens in one forward pass: more gains nothing, and attention's squares cost memory."""


class Cache(ABC):
    """Rows under way. They come in cohorts, take one token each per step, and leave one by one.

    prefix: tokens that every prompt begins with; caches that can read it once and share it.
    """

    kind: ClassVar[str]  # how messages call it

    def __init__(self, policy: Policy, prefix: Tokens = ()) -> None:
        self.policy = policy
        self.prefix = tuple(prefix)

    @abstractmethod
    def add(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> Tensor:
        """Reads prompts (the prefix included); copies[i] rows of prompt i join behind the others.

        Each row can take `room` more tokens. Returns the logits after each prompt, (len(prompts), V).
        """

    @abstractmethod
    def extend(self, tokens: Tensor) -> Tensor:
        """Reads one more token in each row, int64 (rows,); returns the next logits, (rows, V)."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Only these rows stay: ascending row numbers, int64 on the CPU."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Rows under way."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """Cached positions that memory is held for."""

    def cost(self, *, longest: int, num_prompts: int, num_rows: int, room: int) -> int:
        """Positions that a cohort would hold, its longest prompt having `longest` tokens."""
        return num_rows * (longest + room)


class RecomputingCache(Cache):
    """For any module: remembers the ids and runs the whole model for each new token."""

    kind = "reading everything again"

    def __init__(self, policy: Policy, prefix: Tokens = ()) -> None:
        super().__init__(policy, prefix)
        self._ids = torch.zeros((0, 0), dtype=torch.int64, device=policy.device)
        self._lengths = torch.zeros(0, dtype=torch.int64, device=policy.device)
        self._width = 0  # positions that a row of the widest cohort may come to

    def add(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> Tensor:
        device = self.policy.device
        parts = [right_padded(prompts[own]) for own in chunks(list(map(len, prompts)))]
        logits = [self._read(ids.to(device), lengths.to(device)) for ids, lengths in parts]
        ids, lengths = right_padded(prompts)
        self._width = max(self._width, ids.shape[1] + room)
        rows = torch.arange(len(prompts)).repeat_interleave(torch.tensor(copies))
        width = max(self._ids.shape[1], ids.shape[1])
        both = [_widened(self._ids, width), _widened(ids[rows].to(device), width)]
        self._ids = torch.cat(both)
        self._lengths = torch.cat((self._lengths, lengths[rows].to(device)))
        return torch.cat(logits)

    def extend(self, tokens: Tensor) -> Tensor:
        self._ids = _widened(self._ids, int(self._lengths.max()) + 1)
        self._ids[torch.arange(len(tokens), device=tokens.device), self._lengths] = tokens
        self._lengths = self._lengths + 1
        return self._read(self._ids, self._lengths)

    def _read(self, ids: Tensor, lengths: Tensor) -> Tensor:
        features = self.policy.features(ids)
        return self.policy.head(features[torch.arange(len(ids), device=ids.device), lengths - 1])

    def keep(self, rows: Tensor) -> None:
        rows = rows.to(self._ids.device)
        self._ids, self._lengths = self._ids[rows], self._lengths[rows]
        self._ids = self._ids[:, : int(self._lengths.max()) if len(rows) else 0]
        self._width = self._width if len(rows) else 0

    @property
    def num_rows(self) -> int:
        return len(self._ids)

    @property
    def positions(self) -> int:
        return self.num_rows * self._width

    def cost(self, *, longest: int, num_prompts: int, num_rows: int, room: int) -> int:
        width = max(self._width, longest + room)
        return (self.num_rows + num_rows) * width - self.positions


def right_padded(rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """Ids (B, T), zeros behind the shorter rows, and lengths (B,)."""
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]), lengths


def chunks(lengths: Sequence[int]) -> list[slice]:
    """Neighbouring rows to read in one pass: at most READ_AT_ONCE tokens with padding, or one row."""
    found: list[slice] = []
    start, longest = 0, 0
    for row, length in enumerate(lengths):
        longest = max(longest, length)
        if row > start and longest * (row + 1 - start) > READ_AT_ONCE:
            found.append(slice(start, row))
            start, longest = row, length
    return [*found, slice(start, len(lengths))] if len(lengths) else found


def by_cohort(rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Ascending row numbers of all cohorts as numbers within each, counts[i] rows in cohort i."""
    ends = torch.tensor(counts).cumsum(0)
    bounds = torch.searchsorted(rows, ends)
    starts = ends - torch.tensor(counts)
    return [own - start for own, start in zip(rows.tensor_split(bounds[:-1]), starts, strict=True)]


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

    @property
    def index(self) -> Tensor | None:
        """Slot of each row on the device; None where rows and slots are the same."""
        return self._on_device

    def spread(self, rows: Tensor) -> Tensor:
        """(rows, ...) -> (slots, ...), zeros where a row has ended."""
        if self._on_device is None:
            return rows
        return rows.new_zeros((self.count, *rows.shape[1:])).index_copy_(0, self._on_device, rows)

    def gather(self, slots: Tensor) -> Tensor:
        """(slots, ...) -> (rows, ...)."""
        return slots if self._on_device is None else slots[self._on_device]


def _widened(ids: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(ids, (0, max(0, width - ids.shape[1])))

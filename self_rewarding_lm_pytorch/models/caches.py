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
    can_branch: ClassVar[bool]  # whether rows may become several, at little cost

    def __init__(self, policy: Policy, prefix: Tokens = ()) -> None:
        self.policy = policy
        self.prefix = tuple(prefix)

    @abstractmethod
    def add(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> Tensor:
        """Reads prompts (the prefix included); their rows join behind the others.

        copies[i]: how many rows of prompt i there may be, each with room for `room` tokens. Where
        the cache can branch there is one row at first, else as many as there may be. Returns the
        logits after each prompt, (len(prompts), V).
        """

    @abstractmethod
    def extend(self, tokens: Tensor) -> Tensor:
        """Reads one more token in each row, int64 (rows,); returns the next logits, (rows, V)."""

    @abstractmethod
    def keep(self, rows: Tensor, copies: Tensor) -> None:
        """Only these rows stay; where the cache can branch, a row may be named several times.

        rows: ascending row numbers; copies: how many rows each may still become, itself included.
        Both int64 on the CPU.
        """

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
    can_branch = True

    def __init__(self, policy: Policy, prefix: Tokens = ()) -> None:
        super().__init__(policy, prefix)
        self._ids = torch.zeros((0, 0), dtype=torch.int64, device=policy.device)
        self._lengths = torch.zeros(0, dtype=torch.int64, device=policy.device)
        self._copies = 0  # rows there may be
        self._width = 0  # positions that a row of the widest cohort may come to

    def add(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> Tensor:
        device = self.policy.device
        parts = [right_padded(prompts[own]) for own in chunks(list(map(len, prompts)))]
        logits = [self._read(ids.to(device), lengths.to(device)) for ids, lengths in parts]
        if any(copies):
            ids, lengths = right_padded(prompts)
            self._width = max(self._width, ids.shape[1] + room)
            self._copies += sum(copies)
            width = max(self._ids.shape[1], ids.shape[1])
            self._ids = torch.cat([_widened(self._ids, width), _widened(ids.to(device), width)])
            self._lengths = torch.cat((self._lengths, lengths.to(device)))
        return torch.cat(logits)

    def extend(self, tokens: Tensor) -> Tensor:
        self._ids = _widened(self._ids, int(self._lengths.max()) + 1)
        self._ids[torch.arange(len(tokens), device=tokens.device), self._lengths] = tokens
        self._lengths = self._lengths + 1
        return self._read(self._ids, self._lengths)

    def _read(self, ids: Tensor, lengths: Tensor) -> Tensor:
        features = self.policy.features(ids)
        return self.policy.head(features[torch.arange(len(ids), device=ids.device), lengths - 1])

    def keep(self, rows: Tensor, copies: Tensor) -> None:
        rows = rows.to(self._ids.device)
        self._ids, self._lengths = self._ids[rows], self._lengths[rows]
        self._ids = self._ids[:, : int(self._lengths.max()) if len(rows) else 0]
        self._copies = int(copies.sum())
        self._width = self._width if len(rows) else 0

    @property
    def num_rows(self) -> int:
        return len(self._ids)

    @property
    def positions(self) -> int:
        return self._copies * self._width

    def cost(self, *, longest: int, num_prompts: int, num_rows: int, room: int) -> int:
        width = max(self._width, longest + room)
        return (self._copies + num_rows) * width - self.positions


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


def _widened(ids: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(ids, (0, max(0, width - ids.shape[1])))

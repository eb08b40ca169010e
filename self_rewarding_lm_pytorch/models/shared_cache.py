"""The cache of models whose attention we may compute: what rows share is read, held and attended once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.caches import Cache, Slots, Tokens, by_cohort, chunks, right_padded
from self_rewarding_lm_pytorch.models.cascade import (
    Fold,
    Part,
    Segments,
    Style,
    attend,
    joined,
    merged,
    read_attention,
    sink,
)

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.models.policy import Policy


class Attention(Protocol):
    """What a forward pass calls in each layer, in the place of the model's own attention."""

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Tensor:
        """queries (B, h * g, S, d), keys and values (B, h, S, d) -> (B, h * g, S, d)."""
        ...


class SharedCache(Cache):
    """Three levels of keys: the prefix of all rows, the prompt of a few, each row's own tokens."""

    kind = "shared prefixes"

    def __init__(self, policy: Policy, prefix: Tokens = ()) -> None:
        super().__init__(policy, prefix)
        self._prefix: Segments | None = None
        self._cohorts: list[_Cohort] = []
        if self.prefix:
            self._prefix = Segments(len(self.prefix), torch.zeros(1, dtype=torch.int64, device=policy.device))
            ids, lengths = right_padded([self.prefix])
            self._forward(ids, lengths, 0, _Reading(None, self._prefix, slice(0, 1)))

    @abstractmethod
    def forward(self, ids: Tensor, positions: Tensor, last: Tensor, attention: Attention) -> Tensor:
        """The model on ids (B, S) at positions (B, S), attending by `attention`: the logits after
        column last[b] of each row, (B, V)."""

    def add(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> Tensor:
        start = len(self.prefix)
        own = [prompt[start:] for prompt in prompts]
        lengths = torch.tensor([len(ids) for ids in own])
        cohort = _Cohort(start, lengths, copies, room, self.policy.device) if any(copies) else None
        logits = []
        for part in chunks(lengths.tolist()):
            attention = _Reading(self._prefix, cohort.prompts if cohort is not None else None, part)
            logits.append(self._forward(*right_padded(own[part]), start, attention))
        if cohort is not None:
            self._cohorts.append(cohort)
        return torch.cat(logits)

    def _forward(self, ids: Tensor, lengths: Tensor, start: int, attention: Attention) -> Tensor:
        device = self.policy.device
        positions = (start + torch.arange(ids.shape[1])).expand_as(ids)
        return self.forward(ids.to(device), positions.to(device), (lengths - 1).to(device), attention)

    def extend(self, tokens: Tensor) -> Tensor:
        step = _Step(self._prefix, self._cohorts, self.policy.device)
        last = torch.zeros_like(tokens)
        logits = self.forward(tokens[:, None], step.positions[:, None], last, step)
        for cohort in self._cohorts:
            cohort.length += 1
        return logits

    def keep(self, rows: Tensor) -> None:
        parts = by_cohort(rows, [cohort.num_rows for cohort in self._cohorts])
        alive = [(cohort, own) for cohort, own in zip(self._cohorts, parts, strict=True) if len(own)]
        for cohort, own in alive:
            if len(own) < cohort.num_rows:
                cohort.keep(own)
        self._cohorts = [cohort for cohort, _ in alive]

    @property
    def num_rows(self) -> int:
        return sum(cohort.num_rows for cohort in self._cohorts)

    @property
    def positions(self) -> int:
        return len(self.prefix) + sum(cohort.positions for cohort in self._cohorts)

    def cost(self, *, longest: int, num_prompts: int, num_rows: int, room: int) -> int:
        return num_prompts * (longest - len(self.prefix)) + num_rows * room


class _Cohort:
    """Rows admitted together: their prompts, and as many own tokens in each."""

    def __init__(
        self, start: int, lengths: Tensor, copies: Sequence[int], room: int, device: torch.device
    ) -> None:
        """start: position of the prompts' first token; lengths: of the prompts, int64 on the CPU."""
        longest = int(lengths.max())
        unequal = None if bool((lengths == longest).all()) else lengths.to(device)
        self.prompts = Segments(longest, torch.full_like(lengths, start, device=device), unequal)
        self.slots = Slots(sum(copies), device)
        self._prompt = torch.arange(len(lengths)).repeat_interleave(torch.tensor(copies))  # of each row
        self.tails = Segments(room, (start + lengths)[self._prompt].to(device))
        self.length = 0  # own tokens so far
        self._device = device
        self._fold()

    @property
    def num_rows(self) -> int:
        return len(self._prompt)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Each row's next key and value, (rows, h, 1, d)."""
        rows = slice(None) if self.slots.index is None else self.slots.index
        for store, new in zip(self.tails.layer(layer, keys, values), (keys, values), strict=True):
            store[rows, :, self.length] = new[:, :, 0]

    def keep(self, rows: Tensor) -> None:
        self._prompt = self._prompt[rows]
        selected = self.slots.keep(rows)
        if selected is not None:
            self.tails.select(selected)
            self._drop_prompts_without_rows()
        self._fold()

    def _drop_prompts_without_rows(self) -> None:
        used, renumbered = self._prompt.unique(return_inverse=True)
        if len(used) < self.prompts.count:
            self.prompts.select(used.to(self._device))
            self._prompt = renumbered

    def _fold(self) -> None:
        self.prompt_fold = Fold(self._prompt, self.prompts.count, self._device)
        self.tail_fold = Fold(self.slots.live, self.slots.count, self._device)
        offsets = self.tails.offsets
        self.offsets = offsets if self.slots.index is None else offsets[self.slots.index]  # of the rows

    @property
    def positions(self) -> int:
        return self.prompts.count * self.prompts.room + self.tails.count * self.tails.room


class _Reading:
    """Attention while prompts are read; their keys and values are stored in `segments`."""

    def __init__(self, prefix: Segments | None, segments: Segments | None, part: slice) -> None:
        self._prefix = prefix
        self._segments = segments
        self._part = part

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Tensor:
        if self._segments is not None:
            for store, new in zip(self._segments.layer(layer, keys, values), (keys, values), strict=True):
                store[self._part, :, : new.shape[2]] = new
                store[self._part, :, new.shape[2] :] = 0  # weighted with 0, which NaN would survive
        if self._prefix is not None:
            before = (x.expand(len(keys), -1, -1, -1) for x in self._prefix.layer(layer, keys, values))
            keys, values = (torch.cat(pair, dim=2) for pair in zip(before, (keys, values), strict=True))
        return read_attention(queries, keys, values, style)


class _Level:
    """Segments as some rows see them in one step."""

    def __init__(self, segments: Segments, fold: Fold, filled: int, rows: slice, positions: Tensor) -> None:
        self._segments = segments
        self._fold = fold
        self._filled = filled
        self._rows = rows
        self._positions = positions  # of all rows
        self._biases: dict[int | None, Tensor | None] = {}  # by window; the same in many layers

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Part:
        """queries: scaled, (rows of the step, h, g, d)."""
        if style.window not in self._biases:
            places = self._fold.spread(self._positions[self._rows])
            self._biases[style.window] = self._segments.bias(
                self._filled, places, style.window, queries.shape[2]
            )
        store = self._segments.layer(layer, keys, values)
        seen = store[0][:, :, : self._filled], store[1][:, :, : self._filled]
        return attend(queries[self._rows], *seen, self._biases[style.window], style.softcap, self._fold)


class _Step:
    """Attention while each row takes one token."""

    def __init__(self, prefix: Segments | None, cohorts: Sequence[_Cohort], device: torch.device) -> None:
        self.positions = torch.cat([cohort.offsets + cohort.length for cohort in cohorts])
        num_rows = len(self.positions)
        ends = list(accumulate(cohort.num_rows for cohort in cohorts))
        self._cohorts = [
            (cohort, slice(end - cohort.num_rows, end)) for cohort, end in zip(cohorts, ends, strict=True)
        ]
        self._levels: list[list[_Level]] = [[], []]
        for cohort, rows in self._cohorts:
            room, filled = cohort.prompts.room, cohort.length + 1
            self._levels[0].append(_Level(cohort.prompts, cohort.prompt_fold, room, rows, self.positions))
            self._levels[1].append(_Level(cohort.tails, cohort.tail_fold, filled, rows, self.positions))
        if prefix is not None:
            everyone = Fold(torch.zeros(num_rows, dtype=torch.int64), 1, device)
            rows = slice(0, num_rows)
            self._levels.append([_Level(prefix, everyone, prefix.room, rows, self.positions)])

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Tensor:
        num_rows, heads, _, size = keys.shape
        for cohort, rows in self._cohorts:
            cohort.write(layer, keys[rows], values[rows])
        grouped = (queries * style.scale).view(num_rows, heads, -1, size)
        parts = [
            joined([level.attend(layer, grouped, keys, values, style) for level in levels])
            for levels in self._levels
        ]
        if style.sinks is not None:
            parts.append(sink(style.sinks, parts[0]))
        return merged(parts).reshape(num_rows, -1, 1, values.shape[-1]).to(queries.dtype)

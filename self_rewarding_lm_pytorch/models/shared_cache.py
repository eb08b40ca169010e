"""The cache of models whose attention we may compute: what rows share is read, held and attended once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.caches import Cache, Tokens, by_cohort, chunks, right_padded
from self_rewarding_lm_pytorch.models.cascade import (
    Fold,
    Part,
    Segments,
    Span,
    Style,
    attend,
    joined,
    merged,
    read_attention,
    sink,
)
from self_rewarding_lm_pytorch.models.shared_cohort import SharedCohort

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
    can_branch = True

    def __init__(self, policy: Policy, prefix: Tokens = ()) -> None:
        super().__init__(policy, prefix)
        self._prefix: Segments | None = None
        self._cohorts: list[SharedCohort] = []
        if self.prefix:
            self._prefix = Segments(1, len(self.prefix))
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
        cohort = SharedCohort(start, lengths, sum(copies), room, self.policy.device) if any(copies) else None
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

    def keep(self, rows: Tensor, copies: Tensor) -> None:
        parts = by_cohort(rows, [cohort.num_rows for cohort in self._cohorts])
        shares = copies.split([len(own) for own in parts])
        alive = [each for each in zip(self._cohorts, parts, shares, strict=True) if len(each[1])]
        for cohort, own, share in alive:
            cohort.keep(own, int(share.sum()))
        self._cohorts = [cohort for cohort, _, _ in alive]

    @property
    def num_rows(self) -> int:
        return sum(cohort.num_rows for cohort in self._cohorts)

    @property
    def positions(self) -> int:
        return len(self.prefix) + sum(cohort.positions for cohort in self._cohorts)

    def cost(self, *, longest: int, num_prompts: int, num_rows: int, room: int) -> int:
        return num_prompts * (longest - len(self.prefix)) + num_rows * room


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

    def __init__(
        self, segments: Segments, span: Span, fold: Fold, filled: int, rows: slice, positions: Tensor
    ) -> None:
        self._segments = segments
        self._span = span
        self._fold = fold
        self._filled = filled
        self._rows = rows
        self._positions = positions[rows]
        self._biases: dict[int | None, Tensor | None] = {}  # by window; the same in many layers

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Part:
        """queries: scaled, (rows of the step, h, g, d)."""
        if style.window not in self._biases:
            places = self._fold.spread(self._positions)
            self._biases[style.window] = self._span.bias(self._filled, places, style.window, queries.shape[2])
        held_keys, held_values = (
            x[: self._fold.num_segments, :, : self._filled] for x in self._segments.layer(layer, keys, values)
        )
        bias = self._biases[style.window]
        return attend(queries[self._rows], held_keys, held_values, bias, style.softcap, self._fold)


class _Step:
    """Attention while each row takes one token."""

    def __init__(
        self, prefix: Segments | None, cohorts: Sequence[SharedCohort], device: torch.device
    ) -> None:
        self.positions = torch.cat([cohort.offsets + cohort.length for cohort in cohorts])
        ends = list(accumulate(cohort.num_rows for cohort in cohorts))
        slices = [slice(end - cohort.num_rows, end) for cohort, end in zip(cohorts, ends, strict=True)]
        self._cohorts = list(zip(cohorts, slices, strict=True))
        self._levels = [
            [
                _Level(x.prompts, x.prompt_span, x.prompt_fold, x.prompts.room, rows, self.positions)
                for x, rows in self._cohorts
            ],
            [
                _Level(x.tails, x.tail_span, x.tail_fold, x.length + 1, rows, self.positions)
                for x, rows in self._cohorts
            ],
        ]
        if prefix is not None:
            zero, everyone = torch.zeros(1, dtype=torch.int64), slice(0, ends[-1])
            fold = Fold(zero.expand(ends[-1]), 1, device)
            span = Span(zero.to(device))
            self._levels.append([_Level(prefix, span, fold, prefix.room, everyone, self.positions)])

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

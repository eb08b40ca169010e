"""Attention in a forward pass of a shared cache: while prompts are read, and while rows take a token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.cascade import (
    Part,
    Segments,
    Style,
    attend,
    merged,
    read_attention,
    sink,
)
from self_rewarding_lm_pytorch.models.shared_cohort import Level, Runs, SharedCohort

_NOWHERE = 2**40  # the position of a key that nobody sees


class Attention(Protocol):
    """What a forward pass calls in each layer, in the place of the model's own attention."""

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Tensor:
        """queries (B, h * g, S, d), keys and values (B, h, S, d) -> (B, h * g, S, d)."""
        ...


class Before:
    """Runs that stand before those that are read."""

    def __init__(self, runs: Runs, owners: Tensor | None = None) -> None:
        """owners: the run before each of those read, on the CPU; None: there is one, before all."""
        self.runs = runs
        self._owners = owners

    def of(self, rows: Tensor) -> Before:
        """Before some of those read."""
        return self if self._owners is None else Before(self.runs, self._owners[rows])

    @cached_property
    def positions(self) -> Tensor:
        """Of the keys: (rows, K), or (1, K) where all rows have the same."""
        own = slice(None) if self._owners is None else self._owners
        starts, lengths = self.runs.starts[own, None], self.runs.lengths[own, None]
        columns = torch.arange(int(lengths.max()))
        return torch.where(columns < lengths, starts + columns, _NOWHERE)

    def layer(self, layer: int, keys: Tensor, values: Tensor) -> list[Tensor]:
        """Keys and values before each of len(keys) rows: (B, h, K, d)."""
        held = self.runs.segments.layer(layer, keys, values)
        if self._owners is None:
            return [store.expand(len(keys), -1, -1, -1) for store in held]
        width, owners = self.positions.shape[1], self._owners.to(keys.device)
        return [store[:, :, :width].index_select(0, owners) for store in held]


class Reading:
    """Attention while runs of tokens are read; their keys and values are stored in `into`."""

    def __init__(self, positions: Tensor, before: list[Before], into: Segments | None, rows: Tensor) -> None:
        """positions: (B, S); rows: the segment of each row, on the device."""
        self._positions = positions
        self._before = before
        self._into = into
        self._rows = rows
        self._biases: dict[int | None, Tensor | None] = {}  # by window; the same in many layers

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Tensor:
        if self._into is not None:
            for store, new in zip(self._into.layer(layer, keys, values), (keys, values), strict=True):
                store[self._rows, :, : new.shape[2]] = new
                store[self._rows, :, new.shape[2] :] = 0  # weighted with 0, which NaN would survive
        parts = [each.layer(layer, keys, values) for each in self._before]
        if parts:
            columns = zip(*parts, (keys, values), strict=True)
            keys, values = (torch.cat(column, dim=2) for column in columns)
        if style.window not in self._biases:
            self._biases[style.window] = self._bias(style.window)
        return read_attention(queries, keys, values, style, self._biases[style.window])

    def _bias(self, window: int | None) -> Tensor | None:
        """0 for the keys that each position sees, else -inf: (B, 1, S, K). None: plain causal attention."""
        own = self._positions
        if not self._before and (window is None or own.shape[1] <= window):
            return None
        earlier = [each.positions.to(own.device).expand(len(own), -1) for each in self._before]
        keys = torch.cat([*earlier, own], dim=1)[:, None, None]
        places = own[:, None, :, None]
        seen = keys <= places
        if window is not None:
            seen &= keys > places - window
        return torch.zeros(seen.shape, device=own.device).masked_fill_(~seen, -torch.inf)


class _Level:
    """A level as the rows of a cohort see it in one step."""

    def __init__(self, level: Level, filled: int, positions: Tensor) -> None:
        self._level = level
        self._filled = filled
        self._positions = positions
        self._biases: dict[int | None, Tensor | None] = {}  # by window; the same in many layers

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Part:
        """queries: scaled, (rows, h, g, d)."""
        fold, span = self._level.fold, self._level.span
        if style.window not in self._biases:
            places = fold.spread(self._positions)
            self._biases[style.window] = span.bias(self._filled, places, style.window, queries.shape[2])
        held_keys, held_values = (
            x[: fold.num_segments, :, : self._filled] for x in self._level.segments.layer(layer, keys, values)
        )
        return attend(queries, held_keys, held_values, self._biases[style.window], style.softcap, fold)


class Step:
    """Attention while each row takes one token."""

    def __init__(self, prefix: list[Before], cohorts: Sequence[SharedCohort], device: torch.device) -> None:
        self.positions = torch.cat([cohort.offsets + cohort.length for cohort in cohorts])
        ends = list(accumulate(cohort.num_rows for cohort in cohorts))
        self._cohorts = []
        for cohort, end in zip(cohorts, ends, strict=True):
            rows = slice(end - cohort.num_rows, end)
            filled = [level.segments.room for level in cohort.levels[:-1]] + [cohort.length + 1]
            levels = [
                _Level(level, width, self.positions[rows])
                for level, width in zip(cohort.levels, filled, strict=True)
            ]
            self._cohorts.append((cohort, rows, levels))
        everyone = torch.zeros(ends[-1], dtype=torch.int64)
        self._prefix = [
            _Level(each.runs.level(everyone), each.runs.segments.room, self.positions) for each in prefix
        ]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Tensor:
        num_rows, heads, _, size = keys.shape
        grouped = (queries * style.scale).view(num_rows, heads, -1, size)
        common = [level.attend(layer, grouped, keys, values, style) for level in self._prefix]
        found = []
        for cohort, rows, levels in self._cohorts:
            cohort.write(layer, keys[rows], values[rows])
            parts = [level.attend(layer, grouped[rows], keys, values, style) for level in levels]
            if style.sinks is not None:
                parts.append(sink(style.sinks, parts[0]))
            found.append(merged([*parts, *(part.of(rows) for part in common)]))
        together = torch.cat(found) if len(found) > 1 else found[0]
        return together.reshape(num_rows, -1, 1, values.shape[-1]).to(queries.dtype)

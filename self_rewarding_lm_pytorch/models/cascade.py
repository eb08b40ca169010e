"""Attention over keys that rows share: a prefix of all, a prompt of some, the tokens of each.

Each level's keys are read once for all rows that share them, by folding those rows into one matrix
product; the levels' partial softmaxes are merged exactly (Milakov and Gimelshein, 1805.02867).

Shapes: n rows, G segments, m rows to a segment, h key/value heads, g query heads to each, L positions
of a segment, d a head's size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Style:
    """How a layer attends."""

    scale: float
    window: int | None = None  # positions a token sees, its own included; None: all
    softcap: float | None = None
    sinks: Tensor | None = None  # (heads,)


@dataclass(frozen=True)
class Part:
    """Attention over some of the keys: its sum is not yet divided by the softmax's denominator."""

    weighted: Tensor  # (n, h, g, d)
    peak: Tensor  # (n, h, g, 1): the largest score
    total: Tensor  # (n, h, g, 1): sum of exp(score - peak)


class Fold:
    """Rows gathered by the segment they share."""

    def __init__(self, segments: Tensor, num_segments: int, device: torch.device) -> None:
        """segments: int64 (n,) on the CPU, the segment of each row."""
        counts = torch.bincount(segments, minlength=num_segments)
        self.num_segments = num_segments
        self.width = int(counts.max())
        order = segments.argsort(stable=True)
        rank = torch.arange(len(segments)) - (counts.cumsum(0) - counts)[segments[order]]
        place = torch.empty_like(segments)
        place[order] = segments[order] * self.width + rank
        self._from: Tensor | None = None  # None: rows already stand where they are gathered
        self._to: Tensor | None = None
        size = num_segments * self.width
        if not torch.equal(place, torch.arange(size)):
            gathered = torch.zeros(size, dtype=torch.int64)
            gathered[place] = torch.arange(len(segments))
            self._from, self._to = gathered.to(device), place.to(device)

    def spread(self, rows: Tensor) -> Tensor:
        """(n, ...) -> (G, m, ...)."""
        rows = rows if self._from is None else rows[self._from]
        return rows.view(self.num_segments, self.width, *rows.shape[1:])

    def fold(self, queries: Tensor) -> Tensor:
        """(n, h, g, d) -> (G, h, m * g, d)."""
        spread = self.spread(queries).transpose(1, 2)
        return spread.reshape(self.num_segments, queries.shape[1], -1, queries.shape[3])

    def unfold(self, folded: Tensor) -> Tensor:
        """(G, h, m * g, e) -> (n, h, g, e)."""
        count, heads, width, size = folded.shape
        spread = folded.view(count, heads, self.width, width // self.width, size).transpose(1, 2)
        rows = spread.reshape(count * self.width, heads, width // self.width, size)
        return rows if self._to is None else rows[self._to]


class Segments:
    """Keys and values of G runs of tokens, for every layer: (G, h, room, d)."""

    def __init__(self, count: int, room: int) -> None:
        self.count = count
        self.room = room
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's store; keys and values (*, h, *, d) say what it has to hold."""
        if layer not in self._layers:
            self._layers[layer] = self._store(keys), self._store(values)
        return self._layers[layer]

    def _store(self, like: Tensor) -> Tensor:
        return like.new_empty((self.count, like.shape[1], self.room, like.shape[3]))

    def select(self, segments: Tensor, count: int) -> None:
        """Only these stay, or are repeated, int64 on the device; room is made for `count` in all."""
        self.count = count
        for layer, old in self._layers.items():
            new = self._store(old[0]), self._store(old[1])
            for store, source in zip(new, old, strict=True):
                torch.index_select(source, 0, segments, out=store[: len(segments)])
            self._layers[layer] = new

    def copy(self, sources: Tensor, targets: Tensor, filled: int) -> None:
        """The first `filled` places of some segments also become those of others."""
        for pair in self._layers.values():
            for store in pair:
                store[targets, :, :filled] = store[sources, :, :filled]


@dataclass(frozen=True, eq=False)
class Span:
    """Where segments stand: int64 (G,) on the device."""

    offsets: Tensor  # the position of each one's first token
    lengths: Tensor | None = None  # how many of its places are used; None: all that are looked at

    def bias(self, filled: int, positions: Tensor, window: int | None, shared: int) -> Tensor | None:
        """0 for those of the first `filled` keys that the rows see, very negative for the others.

        positions: int64 (G, m), of the rows; shared: g. Returns float32 (G, 1, 1 or m * g, filled), or
        None where they see all.
        """
        columns = torch.arange(filled, device=self.offsets.device)
        hidden = None if self.lengths is None else (columns >= self.lengths[:, None])[:, None, None]
        if window is not None:
            distances = positions[:, :, None] - (self.offsets[:, None] + columns)[:, None]
            too_far = (distances >= window).repeat_interleave(shared, dim=1)[:, None]
            hidden = too_far if hidden is None else hidden | too_far
        # Not minus infinity: a segment that a window hides as a whole must stay free of NaN.
        return None if hidden is None else hidden.float() * -1e30


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, softcap: float | None, fold: Fold
) -> Part:
    """One level: scaled queries (n, h, g, d) on keys (G, h, L, d), bias (G, 1, 1 or m * g, L) added."""
    scores = torch.matmul(fold.fold(queries), keys.transpose(-1, -2))
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores.add_(bias)
    peak = scores.amax(dim=-1, keepdim=True)
    # What is under exp(-80) of the peak vanishes beside it; the exponential is slow for such numbers.
    weights = scores.sub_(peak).clamp_(min=-80).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    weighted = torch.matmul(weights.to(values.dtype), values)
    return Part(fold.unfold(weighted), fold.unfold(peak), fold.unfold(total))


def merged(parts: list[Part]) -> Tensor:
    """The attention over all parts' keys together: (n, h, g, d)."""
    peak = functools.reduce(torch.maximum, (part.peak for part in parts))
    shares = [(part.peak - peak).exp_() for part in parts]
    weighted = torch.stack([share * part.weighted for share, part in zip(shares, parts, strict=True)])
    total = torch.stack([share * part.total for share, part in zip(shares, parts, strict=True)])
    return weighted.sum(0) / total.sum(0)


def joined(parts: list[Part]) -> Part:
    """The parts of several groups of rows as one."""
    if len(parts) == 1:
        return parts[0]
    columns = ((part.weighted, part.peak, part.total) for part in parts)
    return Part(*map(torch.cat, zip(*columns, strict=True)))


def sink(sinks: Tensor, like: Part) -> Part:
    """A learned score for each head, (h * g,), that takes weight and gives nothing."""
    peak = sinks.view(1, *like.peak.shape[1:3], 1).to(like.peak).expand_as(like.peak)
    return Part(torch.zeros_like(like.weighted), peak, torch.ones_like(peak))


def read_attention(queries: Tensor, keys: Tensor, values: Tensor, style: Style) -> Tensor:
    """Causal attention of S new positions on W >= S keys that end with them. (B, h * g, S, d) each way."""
    num_new, num_keys = queries.shape[2], keys.shape[2]
    shared = queries.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(shared, dim=1) if shared > 1 else x for x in (keys, values))
    is_plain = style.softcap is None and style.sinks is None
    if is_plain and num_new == num_keys and (style.window is None or num_keys <= style.window):
        return torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=style.scale
        )
    own = torch.arange(num_keys - num_new, num_keys, device=queries.device)[:, None]
    distance = own - torch.arange(num_keys, device=queries.device)
    seen = (distance >= 0) & (distance < (style.window or num_keys))
    if is_plain:
        return torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, scale=style.scale
        )
    scores = torch.matmul(queries * style.scale, keys.transpose(-1, -2))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if style.softcap is not None:
        scores = torch.tanh(scores / style.softcap) * style.softcap
    scores = scores.masked_fill(~seen, -torch.inf)
    if style.sinks is not None:
        column = style.sinks.view(1, -1, 1, 1).to(scores).expand(len(scores), -1, num_new, 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = scores.softmax(dim=-1)[..., :num_keys]
    return torch.matmul(weights.to(values.dtype), values)

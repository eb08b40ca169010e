"""Attention over keys that rows share: a prefix of all, a beginning or a prompt of some, the tokens of each.

Each level's keys are read once for all rows that share them, by folding those rows into one matrix
product; the levels' partial softmaxes are merged exactly (Milakov and Gimelshein, 1805.02867).

Shapes: n rows, G segments, m rows to a segment, h key/value heads, g query heads to each, L positions
of a segment, d a head's size.
"""

from __future__ import annotations

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
    """Attention over some of the keys, and how much weight these have beside others."""

    output: Tensor  # (n, h, g, d): as if there were no other keys
    log_total: Tensor  # (n, h, g, 1): logarithm of the softmax's denominator

    def of(self, rows: slice) -> Part:
        """Of some rows."""
        return Part(self.output[rows], self.log_total[rows])


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
        rows = rows if self._from is None else rows.index_select(0, self._from)
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
        return rows if self._to is None else rows.index_select(0, self._to)


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
    weights = scores.softmax(dim=-1)
    # The largest weight is 1 / sum of exp(score - peak).
    log_total = scores.amax(dim=-1, keepdim=True) - weights.amax(dim=-1, keepdim=True).log()
    output = torch.matmul(weights.to(values.dtype), values)
    return Part(fold.unfold(output), fold.unfold(log_total))


def merged(parts: list[Part]) -> Tensor:
    """The attention over all parts' keys together: (n, h, g, d)."""
    shares = torch.stack([part.log_total for part in parts]).softmax(dim=0)
    return (shares * torch.stack([part.output for part in parts])).sum(dim=0)


def sink(sinks: Tensor, like: Part) -> Part:
    """A learned score for each head, (h * g,), that takes weight and gives nothing."""
    log_total = sinks.view(1, *like.log_total.shape[1:3], 1).to(like.log_total).expand_as(like.log_total)
    return Part(torch.zeros_like(like.output), log_total)


def read_attention(
    queries: Tensor, keys: Tensor, values: Tensor, style: Style, bias: Tensor | None
) -> Tensor:
    """Attention of S new positions on K keys. queries (B, h * g, S, d), keys and values (B, h, K, d).

    bias: 0 for the keys that a position sees, else minus infinity, (B or 1, 1, S, K); None: K is S, and
    each sees those before it and itself.
    """
    shared = queries.shape[1] // keys.shape[1]
    is_plain = style.softcap is None and style.sinks is None
    # Where the kernel knows of shared heads, copies are spared; other devices have fewer such kernels.
    is_grouped = is_plain and shared > 1 and queries.device.type == "cpu"
    if shared > 1 and not is_grouped:
        keys, values = (x.repeat_interleave(shared, dim=1) for x in (keys, values))
    if is_plain:
        mask = None if bias is None else bias.to(queries.dtype)
        return torch.nn.functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None,
            scale=style.scale,
            enable_gqa=is_grouped,
        )
    scores = torch.matmul(queries * style.scale, keys.transpose(-1, -2))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if style.softcap is not None:
        scores = torch.tanh(scores / style.softcap) * style.softcap
    if bias is None:
        seen = torch.ones(scores.shape[2:], dtype=torch.bool, device=keys.device).tril()
        bias = torch.zeros_like(seen, dtype=scores.dtype).masked_fill(~seen, -torch.inf)
    scores += bias
    if style.sinks is not None:
        column = style.sinks.view(1, -1, 1, 1).to(scores).expand(len(scores), -1, scores.shape[2], 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = scores.softmax(dim=-1)[..., : keys.shape[2]]
    return torch.matmul(weights.to(values.dtype), values)

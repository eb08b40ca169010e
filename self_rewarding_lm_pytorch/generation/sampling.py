"""From logits to tokens: temperature, filters, and one uniform number for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from self_rewarding_lm_pytorch.errors import GenerationError
from self_rewarding_lm_pytorch.generation.filters import NUM_KEPT, FilterFn, NumKept, first, top_p
from self_rewarding_lm_pytorch.models.precision import where_float64_is

_WINDOWS = (64, 512)  # tokens looked at before the whole vocabulary is sorted
_BLOCK = 64
_CPU_ROWS = 32
_BELOW_1 = 1 - 2**-53
_UNSETTLED, _UNUSABLE = -1, -2  # in place of a token, so that one copy from the device tells all

# Logits (B, V), the row of each sample (N,) or None for all in turn, uniforms (N,) -> int64 (N,).
_Draw = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 0.7  # 0: the likeliest token, ties to the lowest id
    filter_fn: FilterFn | None = top_p
    filter_kwargs: Mapping[str, Any] = field(default_factory=dict)


class UnusableLogits(Exception):
    """A row whose logits give no distribution."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row = row
        self.what = what


def filtered_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) -> (B, V), float64 rows that sum to 1: what `sample` draws from."""
    scaled = _scaled(where_float64_is(logits), sampling.temperature)
    return _filtered(scaled, sampling).double().softmax(dim=-1)


def sample(logits: Tensor, sampling: Sampling, uniforms: Tensor, rows: Sequence[int] | None = None) -> Tensor:
    """One token for each uniform: (B, V) and (N,) in [0, 1) -> int64 (N,), on the CPU.

    rows: of each uniform, which may share one; None: N is B. Inverse-CDF sampling: the first token at which
    the cumulative probability passes the uniform. Raises UnusableLogits for a row that is NaN, or minus
    infinity everywhere.
    """
    logits = where_float64_is(logits)
    uniforms = uniforms.to(logits.device, torch.float64)
    owners = None if rows is None else torch.tensor(rows, device=logits.device)
    quickest, *others = _draws(sampling, logits.shape[-1])
    tokens = quickest(logits, owners, uniforms).cpu()
    for draw in others:
        left = (tokens == _UNSETTLED).nonzero()[:, 0]
        if not len(left):
            break
        there = left.to(logits.device)
        own = logits.index_select(0, there if owners is None else owners[there])
        tokens[left] = draw(own, None, uniforms[there]).cpu()
    unusable = (tokens == _UNUSABLE).nonzero()
    if len(unusable):
        row = int(unusable[0]) if rows is None else rows[int(unusable[0])]
        peak = float(_scaled(logits[row], sampling.temperature or 1.0).amax())
        blame = "the filter refused every token" if isfinite(peak) else f"the largest logit is {peak}"
        raise UnusableLogits(row, blame)
    return tokens


def _draws(sampling: Sampling, width: int) -> list[_Draw]:
    """Ways to draw, quickest first; each may leave rows to the next, the last none."""
    if sampling.temperature == 0:
        return [_draw_likeliest]
    # By identity: a user's filter need not be hashable.
    num_kept = next((num for ours, num in NUM_KEPT.items() if ours is sampling.filter_fn), None)
    if num_kept is None:
        return [partial(_draw_plainly, sampling)]
    num_kept = partial(num_kept, **sampling.filter_kwargs)
    if _keeps_all(num_kept, width):
        return [partial(_draw_plainly, Sampling(sampling.temperature, None))]
    # Of a narrow vocabulary, finding the likeliest takes as long as sorting all.
    windows = [window for window in _WINDOWS if 8 * window <= width]
    quick = [partial(_draw_from_likeliest, sampling.temperature, num_kept, window) for window in windows]
    return [*quick, partial(_draw_plainly, sampling)]


def _keeps_all(num_kept: NumKept, width: int) -> bool:
    """A filter that keeps tokens of probability 0, to the last, refuses nothing."""
    certain = torch.zeros(1, max(2, width), dtype=torch.float64)
    certain[0, 0] = 1
    return all(int(num_kept(certain[:, :size])) == size for size in (2, width))


def _of(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, rows)


def _draw_likeliest(logits: Tensor, rows: Tensor | None, uniforms: Tensor) -> Tensor:
    peak, token = logits.max(dim=-1)  # the first of equals, by its documentation; NaN where any is
    return _of(token.where(peak.isfinite(), _UNUSABLE), rows)


def _draw_plainly(sampling: Sampling, logits: Tensor, rows: Tensor | None, uniforms: Tensor) -> Tensor:
    scaled = _scaled(_of(logits, rows), sampling.temperature)
    usable = scaled.amax(dim=-1).isfinite()
    filtered = _filtered(scaled.masked_fill_(~usable[:, None], 0), sampling)  # a user's filter meets no NaN
    weights = (filtered - filtered.amax(dim=-1, keepdim=True)).exp_()
    token, total = _first_past(weights, uniforms)
    return token.where(usable & total.isfinite(), _UNUSABLE)


def _draw_from_likeliest(
    temperature: float,
    num_kept: NumKept,
    window: int,
    logits: Tensor,
    rows: Tensor | None,
    uniforms: Tensor,
) -> Tensor:
    """Draws where the kept tokens are surely among the `window` likeliest."""
    # On a CPU a few rows at a time, as their vocabularies then stay in what it keeps at hand.
    parts = logits.split(_CPU_ROWS) if logits.device.type == "cpu" else [logits]
    columns = zip(*(_likeliest(part, temperature, window) for part in parts), strict=True)
    ordered, ids, total = (_of(torch.cat(column), rows) for column in columns)
    peak = ordered[:, :1]
    weights = (ordered.double() - peak).exp_()
    num = num_kept(weights / total)
    # Of tokens that equal the window's last, others may lie outside it.
    settled = ordered.gather(-1, num[:, None] - 1) > ordered[:, -1:]
    ids, order = ids.sort(dim=-1)
    kept = first(ordered.gather(-1, order), ordered, num)
    place, _ = _first_past(weights.gather(-1, order) * kept, uniforms)
    token = ids.gather(-1, place[:, None])
    return token.where(settled, _UNSETTLED).where(total.isfinite(), _UNUSABLE)[:, 0]


def _likeliest(logits: Tensor, temperature: float, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `window` largest scaled logits (B, window), their ids, and the sum over the whole vocabulary of
    exp(scaled logit - largest), (B, 1), NaN if unusable."""
    scaled = _scaled(logits, temperature)
    ordered, ids = scaled.topk(window, dim=-1)
    return ordered, ids, scaled.sub_(ordered[:, :1]).exp_().sum(dim=-1, keepdim=True)


def _first_past(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) -> the first place where the sum so far passes uniform × total; and the total, both (B,).

    Sums blocks first and looks into one of them: a float64 running sum over everything would be large.
    """
    if weights.shape[-1] <= 2 * _BLOCK:
        place, _, total = _step(weights, uniforms)
        return place, total
    if missing := -weights.shape[-1] % _BLOCK:
        weights = pad(weights, (0, missing))
    blocks = weights.unflatten(-1, (-1, _BLOCK))
    block, uniforms, total = _step(blocks.sum(dim=-1), uniforms)
    within, _, _ = _step(blocks[torch.arange(len(blocks), device=blocks.device), block], uniforms)
    return block * _BLOCK + within, total


def _step(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The place, how far along it (a uniform for what is inside), and the total: all (B,)."""
    sums = weights.cumsum(dim=-1, dtype=torch.float64)
    total = sums[:, -1:]
    target = uniforms[:, None] * total
    place = torch.searchsorted(sums, target, right=True).clamp_(max=weights.shape[-1] - 1)
    along = 1 - (sums.gather(-1, place) - target) / weights.gather(-1, place)
    return place[:, 0], along.clamp_(0, _BELOW_1)[:, 0], total[:, 0]


def _filtered(scaled: Tensor, sampling: Sampling) -> Tensor:
    if sampling.filter_fn is None:
        return scaled
    filtered = sampling.filter_fn(scaled, **sampling.filter_kwargs)
    if not isinstance(filtered, Tensor) or filtered.shape != scaled.shape:
        raise GenerationError(
            f"filter {sampling.filter_fn!r} must return logits of shape {tuple(scaled.shape)}, "
            f"not {getattr(filtered, 'shape', type(filtered).__name__)}"
        )
    return filtered


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """A new tensor, of float32 unless the logits are float64."""
    return (logits if logits.dtype == torch.float64 else logits.float()) / temperature

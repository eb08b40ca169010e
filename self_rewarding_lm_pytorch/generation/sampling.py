"""From logits to tokens: temperature, filters, and one uniform number for each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import GenerationError
from self_rewarding_lm_pytorch.generation.filters import FilterFn, top_p


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
    scaled = logits.float() if logits.dtype != torch.float64 else logits
    scaled = scaled / sampling.temperature
    if sampling.filter_fn is not None:
        scaled = sampling.filter_fn(scaled, **sampling.filter_kwargs)
        if not isinstance(scaled, Tensor) or scaled.shape != logits.shape:
            raise GenerationError(
                f"filter {sampling.filter_fn!r} must return logits of shape {tuple(logits.shape)}, "
                f"not {getattr(scaled, 'shape', type(scaled).__name__)}"
            )
    return scaled.double().softmax(dim=-1)


def sample(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Tensor:
    """One token for each row: (B, V) and uniforms (B,) in [0, 1) -> int64 (B,).

    Inverse-CDF sampling: the first token at which the cumulative probability passes the uniform.
    Raises UnusableLogits for a row that is NaN, or minus infinity everywhere.
    """
    _check(logits)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = filtered_probabilities(logits, sampling).cumsum(dim=-1)
    total = cumulative[:, -1:]
    if bool(total.isnan().any()):
        raise UnusableLogits(int(total.isnan().nonzero()[0, 0]), "the filter refused every token")
    drawn = torch.searchsorted(cumulative, uniforms[:, None].to(total) * total, right=True)
    return drawn[:, 0].clamp(max=logits.shape[-1] - 1)


def _check(logits: Tensor) -> None:
    peak = logits.amax(dim=-1)  # NaN where any logit is
    bad = ~peak.isfinite()
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise UnusableLogits(row, f"the largest logit is {float(peak[row])}")

"""Filters on next-token logits: (batch, vocabulary) -> (batch, vocabulary), refused tokens at -inf.

Temperature is applied before any filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError

FilterFn = Callable[..., Tensor]


def top_p(logits: Tensor, thres: float = 0.9) -> Tensor:
    """Keeps the fewest tokens whose probabilities sum to at least `thres`, 0 < thres <= 1.

    Nucleus sampling: Holtzman et al., 1904.09751, equation 2. The likeliest token always stays.
    """
    _require(0 < thres <= 1, "top_p", "thres", thres, "over 0 and at most 1")
    if thres == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # mass of the likelier tokens
    refused = before >= thres
    refused[:, 0] = False
    return torch.full_like(logits, -torch.inf).scatter(-1, order, ordered.masked_fill(refused, -torch.inf))


def top_k(logits: Tensor, k: int = 50) -> Tensor:
    """Keeps the k likeliest tokens; among equals at the edge, the lower ids."""
    _require(k >= 1, "top_k", "k", k, "at least 1")
    kept = logits.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept))


def min_p(logits: Tensor, p: float = 0.1) -> Tensor:
    """Keeps tokens at least `p` times as likely as the likeliest (Nguyen et al., 2407.01082)."""
    _require(0 <= p <= 1, "min_p", "p", p, "between 0 and 1")
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), -torch.inf)


FILTERS: dict[str, FilterFn] = {"top_p": top_p, "top_k": top_k, "min_p": min_p}


def _require(condition: bool, name: str, argument: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name}: {argument}={value!r} must be {expected}")

"""Filters on next-token logits: (batch, vocabulary) -> (batch, vocabulary), refused tokens at -inf.

Temperature is applied before any filter. Each of ours keeps the first so many tokens in descending order
of logit, equals in order of id; its `num_` function says how many, from the probabilities in that order.
The sampler asks the same function about the few likeliest tokens alone, to spare sorting all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError

FilterFn = Callable[..., Tensor]
NumKept = Callable[..., Tensor]
"""(B, K) true probabilities of the K likeliest tokens, descending -> int64 (B,), from 1 to K.

K where all of those stay, and so perhaps tokens beyond them.
"""


def top_p(logits: Tensor, thres: float = 0.9) -> Tensor:
    """Keeps the fewest tokens whose probabilities sum to at least `thres`, 0 < thres <= 1.

    Nucleus sampling: Holtzman et al., 1904.09751, equation 2. The likeliest token always stays.
    """
    return _filter(logits, num_top_p, thres)


def num_top_p(descending: Tensor, thres: float = 0.9) -> Tensor:
    _require(0 < thres <= 1, "top_p", "thres", thres, "over 0 and at most 1")
    if thres == 1:  # a rounded sum may reach 1 before the last token
        return _each_row(descending, descending.shape[-1])
    return 1 + (descending.cumsum(dim=-1)[:, :-1] < thres).sum(dim=-1)


def top_k(logits: Tensor, k: int = 50) -> Tensor:
    """Keeps the k likeliest tokens; among equals at the edge, the lower ids."""
    return _filter(logits, num_top_k, k)


def num_top_k(descending: Tensor, k: int = 50) -> Tensor:
    _require(k >= 1, "top_k", "k", k, "at least 1")
    return _each_row(descending, min(k, descending.shape[-1]))


def min_p(logits: Tensor, p: float = 0.1) -> Tensor:
    """Keeps tokens at least `p` times as likely as the likeliest (Nguyen et al., 2407.01082)."""
    return _filter(logits, num_min_p, p)


def num_min_p(descending: Tensor, p: float = 0.1) -> Tensor:
    _require(0 <= p <= 1, "min_p", "p", p, "between 0 and 1")
    return (descending >= p * descending[:, :1]).sum(dim=-1).clamp(min=1)  # 0 where NaN


FILTERS: dict[str, FilterFn] = {"top_p": top_p, "top_k": top_k, "min_p": min_p}
NUM_KEPT: dict[FilterFn, NumKept] = {top_p: num_top_p, top_k: num_top_k, min_p: num_min_p}


def first(logits: Tensor, ordered: Tensor, num: Tensor) -> Tensor:
    """Where the `num` (B,) largest of `logits` are, equals from the left: (B, K), the same sorted -> bool."""
    edge = ordered.gather(-1, num[:, None] - 1)
    above, equal = logits > edge, logits == edge
    room = num[:, None] - above.sum(dim=-1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=-1, dtype=torch.int32) <= room))


def _filter(logits: Tensor, num_kept: NumKept, argument: float) -> Tensor:
    ordered = _descending(logits)
    num = num_kept(ordered.double().softmax(dim=-1), argument)
    return logits.masked_fill(~first(logits, ordered, num), -torch.inf)


def _descending(logits: Tensor) -> Tensor:
    """(B, V) sorted. No gradient passes: only the place of the edge is read from it."""
    if logits.device.type != "cpu" or logits.dtype == torch.bfloat16:
        return logits.detach().sort(dim=-1, descending=True).values
    # Values alone, which numpy sorts several times as fast as torch does.
    return torch.from_numpy(np.sort(-logits.detach().numpy(), axis=-1)).neg_()


def _each_row(descending: Tensor, num: int) -> Tensor:
    return torch.full(descending.shape[:1], num, dtype=torch.int64, device=descending.device)


def _require(condition: bool, name: str, argument: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name}: {argument}={value!r} must be {expected}")

"""Losses for labels that may be wrong: label_smoothing (e) is the share of swapped pairs.

h as in `preference`. A share of one half says nothing about the labels, so e < 1/2.
"""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss, Range
from self_rewarding_lm_pytorch.losses.preference import log_ratio_difference
from self_rewarding_lm_pytorch.records import PairLogProbs

Smoothing = Annotated[float, Range(0, 0.5)]
PositiveSmoothing = Annotated[float, Range(0, 0.5, above=True)]


def smoothed_logistic(x: Tensor, smoothing: float) -> Tensor:
    """-(1 - e) log sigmoid(x) - e log sigmoid(-x)."""
    return -(1 - smoothing) * logsigmoid(x) - smoothing * logsigmoid(-x)


def conservative(logprobs: PairLogProbs, beta: float, *, label_smoothing: Smoothing = 0.1) -> Tensor:
    """-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h): Mitchell, "A note on DPO with noisy
    preferences and relationship to IPO" (cDPO, 2023, no arXiv number), equation 3.

    Smallest where sigmoid(beta h) = 1 - e, so it never asks for an endless margin.
    """
    return smoothed_logistic(beta * log_ratio_difference(logprobs), label_smoothing)


def robust(logprobs: PairLogProbs, beta: float, *, label_smoothing: Smoothing = 0.1) -> Tensor:
    """(-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2 e): Ray Chowdhury et al.,
    2403.00409 (rDPO), the de-biased loss.

    Over labels swapped with probability e its mean is DPO's loss of the true labels. A single pair's
    loss has no lower bound for e > 0.
    """
    x = beta * log_ratio_difference(logprobs)
    of_pair, of_swapped = -logsigmoid(x), -logsigmoid(-x)
    return ((1 - label_smoothing) * of_pair - label_smoothing * of_swapped) / (1 - 2 * label_smoothing)


def exo_pair(logprobs: PairLogProbs, beta: float, *, label_smoothing: PositiveSmoothing = 1e-3) -> Tensor:
    """q log(q / (1 - e)) + (1 - q) log((1 - q) / e), with q = sigmoid(beta h): Ji et al., 2402.00856
    (EXO), equation 16 for two responses.

    The reverse KL divergence of the policy's preference from the smoothed label, zero where
    q = 1 - e. Without smoothing it would be infinite everywhere.
    """
    x = beta * log_ratio_difference(logprobs)
    of_chosen = x.sigmoid() * (logsigmoid(x) - math.log1p(-label_smoothing))
    of_rejected = (-x).sigmoid() * (logsigmoid(-x) - math.log(label_smoothing))
    return of_chosen + of_rejected


CONSERVATIVE = PreferenceLoss("conservative", conservative)
ROBUST = PreferenceLoss("robust", robust)
EXO_PAIR = PreferenceLoss("exo_pair", exo_pair)

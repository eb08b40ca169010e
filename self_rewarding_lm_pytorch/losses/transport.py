"""Losses on distributions: what is chosen shall beat what is rejected at every rank of the batch.

Melnyk et al., 2406.05882 (AOT): optimal transport in one dimension, which sorting solves. Row i of the
result is the batch's i-th smallest value, not its i-th pair. With the logistic loss, smoothed by
label_smoothing (e) as in `noisy`.
"""

from __future__ import annotations

from torch import Tensor

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss
from self_rewarding_lm_pytorch.losses.noisy import Smoothing, smoothed_logistic
from self_rewarding_lm_pytorch.losses.preference import log_ratios
from self_rewarding_lm_pytorch.records import PairLogProbs


def aot(logprobs: PairLogProbs, beta: float, *, label_smoothing: Smoothing = 0.0) -> Tensor:
    """L(beta (u_(i) - v_(i))), u the policy's log p(chosen)/p(rejected) and v the reference's, each
    sorted: 2406.05882, the paired form. L(x) = -(1 - e) log sigmoid(x) - e log sigmoid(-x).
    """
    policy = (logprobs.chosen - logprobs.rejected).sort().values
    reference = (logprobs.reference_chosen - logprobs.reference_rejected).sort().values
    return smoothed_logistic(beta * (policy - reference), label_smoothing)


def aot_unpaired(logprobs: PairLogProbs, beta: float, *, label_smoothing: Smoothing = 0.0) -> Tensor:
    """L(beta (u_(i) - v_(i))), u the log-ratios to the reference of the chosen responses and v those of
    the rejected, each sorted: 2406.05882, the unpaired form. L as in `aot`.
    """
    chosen, rejected = log_ratios(logprobs)
    return smoothed_logistic(beta * (chosen.sort().values - rejected.sort().values), label_smoothing)


AOT = PreferenceLoss("aot", aot, needs_whole_batch=True)
AOT_UNPAIRED = PreferenceLoss("aot_unpaired", aot_unpaired, needs_whole_batch=True)

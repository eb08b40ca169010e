"""Losses on h, the difference of log-ratios, each with its equation and source.

h = log p(chosen)/p_ref(chosen) - log p(rejected)/p_ref(rejected), with log-probs summed over the
response's tokens. They see how far the two responses stand apart, not where each of them stands.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss, Range
from self_rewarding_lm_pytorch.records import PairLogProbs


def log_ratios(logprobs: PairLogProbs) -> tuple[Tensor, Tensor]:
    """log p/p_ref of chosen and of rejected, (B,) each."""
    chosen = logprobs.chosen - logprobs.reference_chosen
    rejected = logprobs.rejected - logprobs.reference_rejected
    return chosen, rejected


def log_ratio_difference(logprobs: PairLogProbs) -> Tensor:
    """h, (B,)."""
    chosen, rejected = log_ratios(logprobs)
    return chosen - rejected


def dpo(logprobs: PairLogProbs, beta: float) -> Tensor:
    """-log sigmoid(beta h): Rafailov et al., 2305.18290, equation 7."""
    return -logsigmoid(beta * log_ratio_difference(logprobs))


def ipo(logprobs: PairLogProbs, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2: Azar et al., 2310.12036, equation 17, with tau = beta.

    beta sets the h it aims at. Summed log-probs, as the equation has them; ipo_norm is per token.
    """
    return (log_ratio_difference(logprobs) - 1 / (2 * beta)).square()


def hinge(logprobs: PairLogProbs, beta: float) -> Tensor:
    """max(0, 1 - beta h): SLiC as in Liu et al., 2309.06657 (RSO), section 3.2."""
    return relu(1 - beta * log_ratio_difference(logprobs))


def spin(logprobs: PairLogProbs, beta: float) -> Tensor:
    """-log sigmoid(lambda h): Chen et al., 2401.01335, equation 4.7 with the logistic loss.

    beta is the paper's lambda; chosen is the data set's response, rejected the opponent's, and the
    reference is the opponent.
    """
    return -logsigmoid(beta * log_ratio_difference(logprobs))


def discopop(
    logprobs: PairLogProbs, beta: float, *, discopop_tau: Annotated[float, Range(0, 1, above=True)] = 0.05
) -> Tensor:
    """(1 - s) (-log sigmoid(x)) + s exp(-x), with x = beta h, s = sigmoid(x / tau), tau = discopop_tau.

    Lu et al., 2406.08414 (DiscoPOP), equation 5: logistic where the policy is wrong, exponential where
    it is right; tau is how sharply it changes over, and from tau = 1 on the exponential would no longer
    vanish where the policy is wrong. Not convex: with the paper's tau, 0.05, the slope at the reference
    points the wrong way.
    """
    x = beta * log_ratio_difference(logprobs)
    # s exp(-x) as one exponential: apart, they are 0 times infinity far below the reference
    exponential = (logsigmoid(x / discopop_tau) - x).exp()
    return -logsigmoid(x) * (-x / discopop_tau).sigmoid() + exponential


DPO = PreferenceLoss("dpo", dpo)
IPO = PreferenceLoss("ipo", ipo)
HINGE = PreferenceLoss("hinge", hinge)
SPIN = PreferenceLoss("spin", spin)
DISCOPOP = PreferenceLoss("discopop", discopop)

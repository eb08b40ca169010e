"""Losses on pairs, each with its equation and source. Log-probs are sums over the response's tokens.

With h = log p(chosen)/p_ref(chosen) - log p(rejected)/p_ref(rejected), the difference of log-ratios:
"""

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss
from self_rewarding_lm_pytorch.records import PairLogProbs


def log_ratio_difference(logprobs: PairLogProbs) -> Tensor:
    """h, (B,)."""
    chosen = logprobs.chosen - logprobs.reference_chosen
    rejected = logprobs.rejected - logprobs.reference_rejected
    return chosen - rejected


def dpo(logprobs: PairLogProbs, beta: float) -> Tensor:
    """-log sigmoid(beta h): Rafailov et al., 2305.18290, equation 7."""
    return -logsigmoid(beta * log_ratio_difference(logprobs))


def ipo(logprobs: PairLogProbs, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2: Azar et al., 2310.12036, equation 17, with tau = beta."""
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


DPO = PreferenceLoss("dpo", dpo)
IPO = PreferenceLoss("ipo", ipo)
HINGE = PreferenceLoss("hinge", hinge)
SPIN = PreferenceLoss("spin", spin)

"""Losses that place each response by itself, not the two against each other.

With r(y) = beta log p(y)/p_ref(y), the implicit reward, in summed log-probs.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss, Range
from self_rewarding_lm_pytorch.losses.preference import log_ratios
from self_rewarding_lm_pytorch.records import PairLogProbs


def rewards(logprobs: PairLogProbs, beta: float) -> tuple[Tensor, Tensor]:
    """r of chosen and of rejected, (B,) each."""
    chosen, rejected = log_ratios(logprobs)
    return beta * chosen, beta * rejected


def nca_pair(logprobs: PairLogProbs, beta: float) -> Tensor:
    """-log sigmoid(r(chosen)) - 1/2 log sigmoid(-r(chosen)) - 1/2 log sigmoid(-r(rejected)):
    Chen et al., 2402.05369 (NCA), section 4, for a pair with hard labels.

    Keeps the chosen response likely: its part alone is smallest at r(chosen) = ln 2.
    """
    chosen, rejected = rewards(logprobs, beta)
    return -logsigmoid(chosen) - logsigmoid(-chosen) / 2 - logsigmoid(-rejected) / 2


def bco_pair(
    logprobs: PairLogProbs, beta: float, *, shift: Annotated[float | None, Range(above=True)] = None
) -> Tensor:
    """-log sigmoid(r(chosen) - d) - log sigmoid(-(r(rejected) - d)): Jung et al., 2404.04656 (BCO).

    d, the reward shift, is the mean reward of all responses, chosen and rejected. By default it is that
    of the batch, without gradient. A caller who keeps a running mean over steps gives it as `shift`;
    TRL 1.16's loss of this name has no shift: `shift=0`.
    """
    chosen, rejected = rewards(logprobs, beta)
    middle = torch.cat([chosen, rejected]).detach().mean() if shift is None else shift
    return -logsigmoid(chosen - middle) - logsigmoid(middle - rejected)


def sppo_hard(logprobs: PairLogProbs, beta: float) -> Tensor:
    """(log-ratio(chosen) - 1/(2 beta))^2 + (log-ratio(rejected) + 1/(2 beta))^2: Wu et al., 2405.00675
    (SPPO), equation 4.7, with eta = 1/beta and the win of the chosen response taken as certain.
    """
    chosen, rejected = log_ratios(logprobs)
    target = 1 / (2 * beta)
    return (chosen - target).square() + (rejected + target).square()


def apo_zero(logprobs: PairLogProbs, beta: float) -> Tensor:
    """sigmoid(-r(chosen)) + sigmoid(r(rejected)): D'Oosterlinck et al., 2408.06266, equation 7.

    For chosen responses better than the policy's own: they become likelier, the rejected less likely.
    """
    chosen, rejected = rewards(logprobs, beta)
    return (-chosen).sigmoid() + rejected.sigmoid()


def apo_down(logprobs: PairLogProbs, beta: float) -> Tensor:
    """sigmoid(r(chosen)) + sigmoid(-(r(chosen) - r(rejected))): D'Oosterlinck et al., 2408.06266,
    equation 8.

    For chosen responses worse than the policy's own: both become less likely, the rejected more so.
    """
    chosen, rejected = rewards(logprobs, beta)
    return chosen.sigmoid() + (rejected - chosen).sigmoid()


NCA_PAIR = PreferenceLoss("nca_pair", nca_pair)
BCO_PAIR = PreferenceLoss("bco_pair", bco_pair, needs_whole_batch=True)
SPPO_HARD = PreferenceLoss("sppo_hard", sppo_hard)
APO_ZERO = PreferenceLoss("apo_zero", apo_zero)
APO_DOWN = PreferenceLoss("apo_down", apo_down)

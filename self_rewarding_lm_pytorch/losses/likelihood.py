"""Losses that make the chosen response likely, without a reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from self_rewarding_lm_pytorch.losses.averaged import per_token
from self_rewarding_lm_pytorch.losses.base import PreferenceLoss
from self_rewarding_lm_pytorch.records import PairLogProbs


def nll(logprobs: PairLogProbs, beta: float) -> Tensor:
    """-log p(chosen) / |chosen|: the NLL term of Pang et al., 2404.19733, equation 1.

    A mean over each response's own tokens, then over the pairs. It has no beta; in a mix its weight is
    the paper's alpha.
    """
    return -per_token(logprobs).chosen


def orpo(logprobs: PairLogProbs, beta: float) -> Tensor:
    """nll + lambda (-log sigmoid(log odds(chosen) - log odds(rejected))), odds = P / (1 - P):
    Hong et al., 2403.07691 (ORPO), equations 6 and 7.

    P is the geometric mean of the tokens' probabilities. beta is the paper's lambda, the weight of the
    second term: ORPO has no temperature.
    """
    mean = per_token(logprobs)
    difference = log_odds(mean.chosen) - log_odds(mean.rejected)
    return nll(logprobs, beta) - beta * logsigmoid(difference)


def log_odds(logprob: Tensor) -> Tensor:
    """log(P / (1 - P)) of log P; where P rounds to one, that of the largest P below one."""
    below_zero = logprob.clamp(max=-torch.finfo(logprob.dtype).eps)
    return below_zero - (-below_zero.expm1()).log()


NLL = PreferenceLoss("nll", nll, needs_reference=False, reduction="mean")
ORPO = PreferenceLoss("orpo", orpo, needs_reference=False, reduction="mean")

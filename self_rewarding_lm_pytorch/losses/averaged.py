"""Losses on log-probs per token, so that a response gains nothing by being long.

A mean over tokens is some hundred times smaller than a sum: beta must be larger, above 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss, Range
from self_rewarding_lm_pytorch.losses.preference import dpo, ipo
from self_rewarding_lm_pytorch.records import PairLogProbs


def per_token(logprobs: PairLogProbs) -> PairLogProbs:
    """The same pairs with each log-prob divided by its response's number of tokens."""
    chosen, rejected = logprobs.chosen_lengths.clamp(min=1), logprobs.rejected_lengths.clamp(min=1)
    return replace(
        logprobs,
        chosen=logprobs.chosen / chosen,
        rejected=logprobs.rejected / rejected,
        reference_chosen=logprobs.reference_chosen / chosen,
        reference_rejected=logprobs.reference_rejected / rejected,
    )


def sigmoid_norm(logprobs: PairLogProbs, beta: float) -> Tensor:
    """-log sigmoid(beta h), h of log-probs per token: length-normalized DPO, Lambert et al., 2411.15124
    (Tulu 3), section 5. There beta = 5.
    """
    return dpo(per_token(logprobs), beta)


def ipo_norm(logprobs: PairLogProbs, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2, h of log-probs per token: 2310.12036, equation 17, as TRL reads it.

    Asks for the same margin per token of every pair, and so of longer responses for more in all.
    """
    return ipo(per_token(logprobs), beta)


def simpo(logprobs: PairLogProbs, beta: float, *, gamma: Annotated[float, Range(0)] = 1.0) -> Tensor:
    """-log sigmoid(beta (log p(chosen)/|chosen| - log p(rejected)/|rejected|) - gamma): Meng et al.,
    2405.14734 (SimPO), equation 6. No reference.

    gamma is the paper's: a margin of the reward, not its ratio to beta. The default is half of
    beta = 2.
    """
    mean = per_token(logprobs)
    return -logsigmoid(beta * (mean.chosen - mean.rejected) - gamma)


SIGMOID_NORM = PreferenceLoss("sigmoid_norm", sigmoid_norm, reduction="mean")
IPO_NORM = PreferenceLoss("ipo_norm", ipo_norm, reduction="mean")
SIMPO = PreferenceLoss("simpo", simpo, needs_reference=False, reduction="mean")

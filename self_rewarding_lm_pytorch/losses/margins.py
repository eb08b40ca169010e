"""Losses that know by how much the judge prefers the chosen response: m, the gap of the two scores.

Two ways to use it. odpo asks for a larger margin where the gap is larger; a weight makes such pairs
count for more, whatever the loss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.losses.base import PreferenceLoss, Range
from self_rewarding_lm_pytorch.losses.preference import log_ratio_difference
from self_rewarding_lm_pytorch.records import PairLogProbs


def score_gaps(logprobs: PairLogProbs, name: str) -> Tensor:
    """m, (B,)."""
    if logprobs.margin is None:
        raise ConfigError(
            f"{name} needs the judge's score of both responses of every pair, which these pairs lack; "
            "give scored pairs, or a loss without margins such as dpo"
        )
    return logprobs.margin.to(logprobs.chosen)


def odpo(logprobs: PairLogProbs, beta: float, *, alpha: Annotated[float, Range(0)] = 1.0) -> Tensor:
    """-log sigmoid(beta h - alpha m): DPO with an offset, Amini et al., 2402.10571.

    The paper's offset is alpha f(m) with an increasing f; here f(m) = m, which is nothing for a tie,
    where the paper's f = log has no value. h as in `preference`.
    """
    return -logsigmoid(beta * log_ratio_difference(logprobs) - alpha * score_gaps(logprobs, "odpo"))


def weighted_by_margin(loss: PreferenceLoss) -> PreferenceLoss:
    """m times the loss: a pair counts as much as its judge was sure. A tie counts for nothing.

    The weights are not made to sum to anything: a pair's loss must not depend on the batch it is in. A
    gap below zero, of a pair in the wrong order, counts for nothing too.
    """
    if loss.needs_whole_batch:
        raise ConfigError(
            f"{loss.name} is a loss of a whole batch, so its pairs cannot be weighted by their margins; "
            "leave the weights out, or take a loss of single pairs such as dpo"
        )
    name = f"margin-weighted {loss.name}"

    def value(logprobs: PairLogProbs, beta: float) -> Tensor:
        return score_gaps(logprobs, name).clamp(min=0) * loss(logprobs, beta)

    return replace(loss, name=name, value=value, needs_margin=True, given={})


ODPO = PreferenceLoss("odpo", odpo, needs_margin=True)

"""As training begins a policy is its reference; a first batch that says otherwise stops the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import TrainingError
from self_rewarding_lm_pytorch.models.logprobs import SequenceLogProbs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import PairBatch, PairExample, PairLogProbs
from self_rewarding_lm_pytorch.training.objectives import PreferenceObjective, Term

_RELATIVE = 1e-3  # of the loss
# Nats per token that rounding may come to, as equal sequences are read in batches of other shapes.
_ROUNDING, _HALF_ROUNDING = 1e-4, 3e-2


def check_first_batch(policy: Policy, term: Term[PairExample, PairBatch], seed: Sequence[int | str]) -> None:
    """Compares the first batch's preference loss, dropout off, with its analytic value: ln 2 for dpo.

    The analytic value is the loss where the policy's log-probs are the reference's; for stages whose
    reference is the policy as training begins. Raises TrainingError with both values and the cause.
    """
    logprobs, rounding, objective = SequenceLogProbs(policy), _rounding(policy), term.objective
    assert isinstance(objective, PreferenceObjective)
    with policy.evaluating():
        for micro in term.micro_batches(term.batch(0, seed)):
            batch = objective.collate(micro).to(policy.device)
            pair = objective.pair_logprobs(logprobs, batch)
            _check_finite(pair, batch)
            found, expected = (objective.preference_losses(x) for x in (pair, _at_reference(pair)))
            is_equal = (found - expected).abs() <= _RELATIVE * expected.abs()
            wrong = (~(is_equal | (_apart(pair) <= rounding))).nonzero()
            if len(wrong):
                place = int(wrong[0])
                is_random = bool(_apart(objective.pair_logprobs(logprobs, batch), pair)[place] > rounding)
                numbers = (found, expected, pair.chosen, pair.reference_chosen)
                loss, value, ours, theirs = (f"{float(number[place]):.6g}" for number in numbers)
                raise TrainingError(
                    f"the {objective.name} loss of pair {int(batch.index[place])}, in the first batch and "
                    f"with dropout off, is {loss} instead of {value}, its value where policy and reference "
                    "are the same model, as they are when training begins. Its chosen response has the "
                    f"log-prob {ours}, by the reference {theirs}. {_RANDOM if is_random else _OTHER}"
                )


def _check_finite(pair: PairLogProbs, batch: PairBatch) -> None:
    for whose, sides in (
        ("the model", (pair.chosen, pair.rejected)),
        ("the reference", (pair.reference_chosen, pair.reference_rejected)),
    ):
        bad = (~torch.stack(sides).isfinite().all(dim=0)).nonzero()
        if len(bad):
            place = int(bad[0])
            said = " and ".join(f"{float(side[place]):g}" for side in sides)
            raise TrainingError(
                f"the log-probs of pair {int(batch.index[place])} by {whose} are {said}: its logits are not "
                "numbers, so nothing can be learned from them; look at its weights and its dtype"
            )


_RANDOM = (
    "The model gives other log-probs each time it is asked: something in its forward stays random in "
    "evaluation mode and must follow module.training"
)
_OTHER = (
    "The model itself repeats its log-probs, so the reference's are another model's: the weights changed "
    "after they were computed, or they are those of other pairs; begin the stage anew (--fresh)"
)


def _at_reference(pair: PairLogProbs) -> PairLogProbs:
    """The pair as it would be if the policy were its reference."""
    return replace(pair, chosen=pair.reference_chosen, rejected=pair.reference_rejected)


def _apart(pair: PairLogProbs, other: PairLogProbs | None = None) -> Tensor:
    """How far the log-probs are from the reference's, or another reading's, in nats per token: (B,)."""
    chosen, rejected = (
        (pair.reference_chosen, pair.reference_rejected) if other is None else (other.chosen, other.rejected)
    )
    lengths = torch.stack((pair.chosen_lengths, pair.rejected_lengths)).clamp(min=1)
    distances = torch.stack((pair.chosen - chosen, pair.rejected - rejected)).abs()
    return (distances / lengths).amax(dim=0)


def _rounding(policy: Policy) -> float:
    with policy.autocast():
        is_half = torch.is_autocast_enabled(policy.device.type)
    is_half = is_half or any(p.dtype in (torch.float16, torch.bfloat16) for p in policy.module.parameters())
    return _HALF_ROUNDING if is_half else _ROUNDING

"""As training begins the loss is what it is where policy and reference are one, or the run stops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import TrainingError
from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.training.first_batch import check_first_batch
from self_rewarding_lm_pytorch.training.reference import LiveReference, StoredReference
from tests.helpers import VOCAB, recurrent
from tests.training.worlds import pairs, preference

SEED = ("test", 0)


class Restless(nn.Module):
    """Its logits are noisy even in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.embed(ids)
        return logits + torch.randn_like(logits)


def moved(policy: Policy) -> Policy:
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return policy


@pytest.mark.parametrize(
    "loss", [name for name in PREFERENCE_LOSSES if PREFERENCE_LOSSES[name].needs_reference]
)
def test_a_policy_that_is_its_reference_passes_with_every_loss(loss: str) -> None:
    if PREFERENCE_LOSSES[loss].needs_margin:
        pytest.skip("its pairs need a judge's points")
    policy = recurrent(dropout=0.3)
    policy.module.train()
    check_first_batch(policy, preference(policy, pairs(8), loss=loss), SEED)
    assert policy.module.training


@pytest.mark.parametrize(("loss", "value"), [("dpo", math.log(2)), ("hinge", 1.0), ("ipo", 1.0)])
def test_a_reference_that_is_another_model_stops_the_run_with_both_values(loss: str, value: float) -> None:
    policy, items = recurrent(), pairs(8)
    reference = StoredReference.of(LiveReference(policy), items, micro_batch_size=4)
    term = preference(moved(policy), items, loss=loss, reference=reference)
    with pytest.raises(TrainingError, match="weights changed after they were computed") as stopped:
        check_first_batch(policy, term, SEED)
    assert f"instead of {value:.6g}" in str(stopped.value)  # ipo: (1 / (2 * 0.5))^2


def test_a_model_that_is_random_in_evaluation_mode_is_told_from_a_wrong_reference() -> None:
    policy = policy_for(Restless())
    with pytest.raises(TrainingError, match="stays random in evaluation mode"):
        check_first_batch(policy, preference(policy, pairs(8)), SEED)


def test_references_of_other_pairs_stop_the_run() -> None:
    policy, items = recurrent(), pairs(8)
    right = StoredReference.of(LiveReference(policy), items, micro_batch_size=4)
    swapped = StoredReference(right._chosen.flip(0), right._rejected.flip(0))
    with pytest.raises(TrainingError, match="those of other pairs"):
        check_first_batch(policy, preference(policy, items, reference=swapped), SEED)

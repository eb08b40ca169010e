"""Training on pairs: what the reference is, that it stays, and what each setting does."""

import math
from dataclasses import replace

import pytest
import torch

from self_rewarding_lm_pytorch.data.collate import collate, collate_pairs
from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import PairBatch, PairExample
from self_rewarding_lm_pytorch.text import example_from_parts
from self_rewarding_lm_pytorch.training.objectives import PreferenceObjective, Term
from self_rewarding_lm_pytorch.training.reference import LiveReference, StoredReference
from tests.helpers import Table, hugging_face, recurrent, x_transformer
from tests.training.worlds import pairs, preference, run, weights

FLOAT32 = 1e-5  # stored reference log-probs are float32; sums here are about -30


def rows(policy: Policy, items: list[PairExample]) -> tuple[torch.Tensor, torch.Tensor]:
    with policy.evaluating():
        chosen = sequence_logprobs(policy, collate([item.chosen for item in items]))
        rejected = sequence_logprobs(policy, collate([item.rejected for item in items]))
    return chosen, rejected


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_the_stored_reference_is_what_the_live_model_says(micro: int) -> None:
    policy, items = recurrent(dropout=0.5), pairs(7)
    policy.module.train()
    stored = StoredReference.of(LiveReference(policy), items, micro_batch_size=micro)
    live = LiveReference(policy.copy())
    for some in (items, [items[5], items[2]]):
        batch = collate_pairs(some)
        for one, other, expected in zip(stored(batch), live(batch), rows(policy, some), strict=True):
            assert torch.allclose(other, expected, atol=1e-9)
            assert torch.allclose(one.double(), expected, atol=FLOAT32)
    assert policy.module.training, "computing the reference must not leave evaluation mode behind"


@pytest.mark.parametrize("loss", ["dpo", "spin", "ipo", "hinge"])
def test_the_first_loss_is_that_of_a_policy_at_its_reference(loss: str) -> None:
    """h = 0: ln 2 for DPO and SPIN, (1 / (2 x 0.5))^2 = 1 for IPO, 1 for the hinge; no margin yet."""
    policy = recurrent()
    term = preference(policy, pairs(8), loss=loss, micro=3)
    metrics = run(policy, term, num_steps=1).metrics
    expected = math.log(2) if loss in ("dpo", "spin") else 1.0
    assert metrics["preference_loss"] == pytest.approx(expected, abs=FLOAT32)
    assert metrics["margin"] == pytest.approx(0, abs=FLOAT32)
    assert metrics["reward_chosen"] == pytest.approx(0, abs=FLOAT32)


def test_the_reference_never_drifts_while_the_policy_moves() -> None:
    policy, items = x_transformer(), pairs(6)
    before = rows(policy, items)
    stored = StoredReference.of(LiveReference(policy), items, micro_batch_size=2)
    live = LiveReference(policy.copy())
    run(policy, preference(policy, items, reference=stored), num_steps=5)
    batch = collate_pairs(items)
    assert not torch.allclose(rows(policy, items)[0], before[0], atol=0.1)
    for reference in (stored, live):
        for found, expected in zip(reference(batch), before, strict=True):
            assert torch.allclose(found.double(), expected, atol=1e-4)  # float32 store and softmax


def test_stored_and_live_references_train_the_same_model() -> None:
    first, second, items = recurrent(), recurrent(), pairs(6)
    run(first, preference(first, items, micro=2), num_steps=4)
    run(second, preference(second, items, micro=2, reference=LiveReference(second.copy())), num_steps=4)
    # float32 rounding of the reference, through four Adam steps of 1e-2
    assert torch.allclose(weights(first), weights(second), atol=1e-4)
    assert not torch.allclose(weights(first), weights(recurrent()), atol=1e-2)


@pytest.mark.parametrize("loss", sorted(set(PREFERENCE_LOSSES) - {"discopop", "odpo"}))
def test_training_tells_chosen_from_rejected(loss: str) -> None:
    policy, items = recurrent(), pairs(6)
    before = rows(policy, items)
    # IPO aims at a margin of 1 / (2 beta), so a small beta asks for a clear one
    result = run(policy, preference(policy, items, loss=loss, beta=0.1, batch_size=6), num_steps=30)
    after = rows(policy, items)
    gain = (after[0] - before[0]) - (after[1] - before[1])
    assert gain.min() > 1
    assert result.metrics["accuracy"] > 0.8


def test_the_nll_term_keeps_the_chosen_response_likely() -> None:
    found = {}
    for weight in (0.0, 1.0):
        policy, items = recurrent(), pairs(6)
        run(policy, preference(policy, items, nll_weight=weight, batch_size=6), num_steps=15)
        found[weight] = rows(policy, items)[0].mean()
    assert found[1.0] > found[0.0] + 1


def test_pair_metrics_are_the_means_they_say() -> None:
    """Probabilities by hand. After 0: token 1 has 1/2, 2 has 1/4, 3 has 1/4; after 1: 1/2 for 1.

    Chosen (1, 1): log 1/4, per token log 1/2. Rejected (2): log 1/4. The reference says log 1/8 and
    log 1/2, so h = log 2 + log 2 and, with beta 0.5, the margin is log 2, the rewards 0.5 log 2
    and -0.5 log 2, and DPO's loss log(1 + 1/2). Mean NLL of chosen: log 2, here with weight 3.
    """
    table = torch.tensor([[0, 2, 1, 1], [1, 2, 0.5, 0.5], [1, 1, 1, 1], [1, 1, 1, 1]]).double().log()
    policy = policy_for(Table(table))
    item = PairExample(0, example_from_parts((0,), (1, 1)), example_from_parts((0,), (2,)))
    stored = StoredReference(torch.tensor([1 / 8]).log(), torch.tensor([1 / 2]).log())
    term = preference(policy, [item], beta=0.5, reference=stored, nll_weight=3.0)
    metrics = run(policy, term, num_steps=3, learning_rate=0.0).metrics
    ln2 = math.log(2)
    expected = {
        "preference_loss": math.log(1.5),
        "loss": math.log(1.5) + 3 * ln2,
        "margin": ln2,
        "accuracy": 1.0,
        "reward_chosen": 0.5 * ln2,
        "reward_rejected": -0.5 * ln2,
        "chosen_logprob_per_token": -ln2,
        "rejected_logprob_per_token": -2 * ln2,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=FLOAT32)


def test_pair_logprobs_are_sums_not_means() -> None:
    """A chosen response twice as long with the same log-prob per token has twice the reward's change."""
    policy = policy_for(Table(torch.zeros(4, 4).double()))  # log 1/4 for every token
    item = PairExample(0, example_from_parts((0,), (1, 1, 1, 1)), example_from_parts((0,), (2, 2)))
    stored = StoredReference(torch.zeros(1), torch.zeros(1))
    metrics = run(
        policy, preference(policy, [item], beta=1.0, reference=stored), num_steps=1, learning_rate=0.0
    )
    assert metrics.metrics["reward_chosen"] == pytest.approx(-4 * math.log(4), abs=FLOAT32)
    assert metrics.metrics["reward_rejected"] == pytest.approx(-2 * math.log(4), abs=FLOAT32)


def test_a_batch_keeps_pairs_and_their_index_together() -> None:
    items = pairs(5)
    batch: PairBatch = collate_pairs([items[3], items[0]])
    assert batch.index.tolist() == [3, 0]
    assert batch.chosen.ids[0, : len(items[3].chosen)].tolist() == items[3].chosen.ids.tolist()
    assert batch.rejected.ids[1, : len(items[0].rejected)].tolist() == items[0].rejected.ids.tolist()


def test_reading_both_sides_in_one_row_changes_nothing_that_is_learned() -> None:
    found = []
    for width in (0, 64):
        policy, items = hugging_face(), pairs(6)
        stored = StoredReference.of(LiveReference(policy), items, micro_batch_size=4)
        objective = PreferenceObjective(PREFERENCE_LOSSES["dpo"], stored, beta=0.5, fork_width=width)
        assert (objective.collate(items).forked is not None) == (width > 0)
        run(policy, Term("main", items, objective, 6, 6), num_steps=5, learning_rate=1e-3)
        found.append(weights(policy))
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_how_many_tokens_are_read_at_once_changes_no_gradient(tokens: int) -> None:
    policy, items = recurrent(), pairs(8)
    term = preference(policy, items)
    expected = run(recurrent(), term, num_steps=1).metrics["grad_norm"]
    split = replace(term, max_tokens=tokens)
    assert len(split.micro_batches(items)) == {1: 8, 40: 4, 10_000: 1}[tokens]
    assert run(recurrent(), split, num_steps=1).metrics["grad_norm"] == pytest.approx(expected, rel=1e-9)

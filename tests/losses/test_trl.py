"""Our losses beside those of TRL, which computes its own from the same numbers.

Values and gradients with respect to every token's log-prob (or logit) are compared on 200 random
batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.losses import preference_loss
from self_rewarding_lm_pytorch.records import PairLogProbs
from tests.losses.trl_trainers import TOKENS, Batch, batch, ours, trl_cpo, trl_dpo, trl_orpo

pytest.importorskip("trl", minversion="1.16", reason="TRL is a peer we compare with, not a dependency")

NUM_BATCHES = 200
EXACT = 1e-12  # both in float64
SINGLE = 1e-6  # where TRL goes through float32 on the way


def largest_difference(
    loss: Any, theirs: Callable[[Batch, float], Tensor], *, logits: bool = False, equal_chosen: bool = False
) -> float:
    """Of values and gradients, over all batches; relative to the size of TRL's where that is above 1."""
    largest = 0.0
    for seed in range(NUM_BATCHES):
        some, beta = batch(seed, logits=logits, equal_chosen=equal_chosen), (0.1, 0.7, 2.0)[seed % 3]
        found, expected = ours(loss, some, beta), theirs(some, beta)
        (slope,), (other,) = (torch.autograd.grad(value, some.drawn) for value in (found, expected))
        for one, two in ((found, expected), (slope, other)):
            largest = max(largest, ((one - two).abs() / two.abs().clamp(min=1)).max().item())
    return largest


def compare(record: Callable[[str, object], None], difference: float, tolerance: float) -> None:
    record("largest_difference", difference)
    assert difference <= tolerance, f"differs from TRL by {difference:.2e}"


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Any:
    """TRL warns that its CPO and ORPO trainers are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    ("name", "theirs", "options", "tolerance"),
    [
        ("dpo", "sigmoid", {}, EXACT),
        ("spin", "sigmoid", {}, EXACT),
        ("hinge", "hinge", {}, EXACT),
        ("ipo_norm", "ipo", {}, EXACT),
        ("robust", "robust", {"label_smoothing": 0.2}, EXACT),
        ("exo_pair", "exo_pair", {"label_smoothing": 0.01}, SINGLE),
        ("nca_pair", "nca_pair", {}, EXACT),
        ("sppo_hard", "sppo_hard", {}, EXACT),
        ("aot", "aot", {"label_smoothing": 0.2}, EXACT),
        ("aot_unpaired", "aot_unpaired", {"label_smoothing": 0.2}, EXACT),
        ("apo_zero", "apo_zero", {}, EXACT),
        ("apo_down", "apo_down", {}, EXACT),
        ("discopop", "discopop", {"discopop_tau": 0.05}, EXACT),
        ("discopop", "discopop", {"discopop_tau": 0.5}, EXACT),
        ("sigmoid_norm", "sigmoid_norm", {}, EXACT),
    ],
)
def test_a_loss_is_that_of_trls_dpo_trainer(
    name: str, theirs: str, options: dict[str, float], tolerance: float, record_property: Any
) -> None:
    difference = largest_difference(
        preference_loss(name, **options), lambda some, beta: trl_dpo({theirs: 1.0}, some, beta, **options)
    )
    compare(record_property, difference, tolerance)


def test_bco_with_trls_shift_is_trls(record_property: Any) -> None:
    """TRL's pair loss of this name has none."""
    loss = preference_loss("bco_pair", shift=0.0)
    difference = largest_difference(loss, lambda some, beta: trl_dpo({"bco_pair": 1.0}, some, beta))
    compare(record_property, difference, EXACT)


def test_ipo_of_summed_log_probs_is_trls_of_one_token_responses(record_property: Any) -> None:
    """TRL divides by the number of tokens, the paper's equation does not."""

    def theirs(some: Batch, beta: float) -> Tensor:
        ones = torch.ones_like(some.lengths)
        sums = some.inputs.sum(1, keepdim=True)
        first = torch.nn.functional.pad(sums, (0, TOKENS - 1))
        return trl_dpo({"ipo": 1.0}, replace(some, lengths=ones, drawn=first), beta)

    compare(record_property, largest_difference(preference_loss("ipo"), theirs), EXACT)


def test_nll_is_trls_sft(record_property: Any) -> None:
    difference = largest_difference(
        preference_loss("sft"), lambda some, beta: trl_dpo({"sft": 1.0}, some, beta), equal_chosen=True
    )
    compare(record_property, difference, EXACT)


def test_a_mix_is_trls_mix(record_property: Any) -> None:
    """The three losses of MPO (2411.10442), with its weights."""
    loss = preference_loss({"dpo": 0.8, "bco_pair": {"weight": 0.2, "shift": 0}, "sft": 1.0})
    theirs = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
    difference = largest_difference(loss, lambda some, beta: trl_dpo(theirs, some, beta), equal_chosen=True)
    compare(record_property, difference, EXACT)


def test_conservative_is_trls_smoothed_sigmoid(record_property: Any) -> None:
    """Label smoothing is left in TRL's CPO trainer alone, whose loss has no reference: one of zeros."""
    loss = preference_loss("conservative", label_smoothing=0.2)

    def without_reference(logprobs: PairLogProbs, beta: float) -> Tensor:
        nothing = torch.zeros_like(logprobs.chosen)
        return loss(replace(logprobs, reference_chosen=nothing, reference_rejected=nothing), beta)

    difference = largest_difference(
        without_reference,
        lambda some, beta: trl_cpo("sigmoid", some, beta, label_smoothing=0.2),
        logits=True,
    )
    compare(record_property, difference, EXACT)


def test_simpo_is_trls(record_property: Any) -> None:
    difference = largest_difference(
        preference_loss("simpo", gamma=0.6),
        lambda some, beta: trl_cpo("simpo", some, beta, gamma=0.6),
        logits=True,
    )
    compare(record_property, difference, EXACT)


def test_orpo_is_trls(record_property: Any) -> None:
    """TRL's likelihood term covers the prompt too; a prompt of one token adds nothing to it."""
    difference = largest_difference(preference_loss("orpo"), trl_orpo, logits=True, equal_chosen=True)
    compare(record_property, difference, SINGLE)


def test_the_comparison_would_notice_a_wrong_loss() -> None:
    assert largest_difference(preference_loss("dpo"), lambda s, b: trl_dpo({"hinge": 1.0}, s, b)) > 0.1

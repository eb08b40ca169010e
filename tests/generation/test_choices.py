"""The probabilities of a few continuations, against a brute-force forward pass for each."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.generation.choices import choice_probabilities
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from tests.helpers import Table, hugging_face, recurrent, whole_logits, x_transformer

Tokens = tuple[int, ...]
PREFIXES: list[Tokens] = [(3, 7, 1, 4), (9,), (5, 2, 8, 8, 8, 1), (9, 9)]
CHOICES: dict[str, list[Tokens]] = {
    "one token each": [(5,), (6,), (7,)],
    "one is a prefix of another": [(5,), (6,), (5, 4)],  # as "1" and "10"
    "three tokens": [(5,), (5, 4), (5, 4, 3), (8, 8, 8), (8, 1)],
    "a chain and a stranger": [(1, 2), (1, 2, 3), (4,)],
}
POLICIES: dict[str, Callable[[], Policy]] = {
    "plain": recurrent,
    "x-transformers": lambda: x_transformer(dtype=torch.float32),
    "hugging face": lambda: hugging_face("llama"),
}


def brute_force(policy: Policy, prefix: Tokens, choices: list[Tokens], temperature: float) -> list[float]:
    """Full forward passes of single rows, a loop over tokens, and the prefix rule written out."""

    def after(row: Tokens) -> Tensor:
        with torch.no_grad():
            return whole_logits(policy, torch.tensor([row]))[0, -1].double().softmax(dim=-1)

    weights = []
    for choice in choices:
        weight = math.prod(float(after(prefix + choice[:i])[token]) for i, token in enumerate(choice))
        longer = {c[len(choice)] for c in choices if len(c) > len(choice) and c[: len(choice)] == choice}
        weights.append(weight * (1 - sum(float(after(prefix + choice)[token]) for token in longer)))
    powers = [w ** (1 / temperature) for w in weights]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("name", POLICIES)
def test_probabilities_are_those_of_brute_force(name: str, choices: str, temperature: float) -> None:
    policy = POLICIES[name]()
    found = choice_probabilities(policy, PREFIXES, CHOICES[choices], temperature=temperature)
    for row, prefix in zip(found, PREFIXES, strict=True):
        expected = brute_force(policy, prefix, CHOICES[choices], temperature)
        # float32 parts inside x-transformers and Hugging Face models
        assert row.tolist() == pytest.approx(expected, abs=1e-9 if name == "plain" else 1e-4)


def test_one_and_ten_are_compared_to_their_end() -> None:
    """Tokens 1 and 0; from the prefix, P(1) = 0.6 and P(2) = 0.4; after 1, P(0) = 0.9.

    "1": 0.6 x (1 - 0.9) = 0.06, "10": 0.6 x 0.9 = 0.54, "2": 0.4: already a distribution.
    """
    rows = [[0.0, 0.6, 0.4, 0.0], [0.9, 0.05, 0.05, 0.0], [0.25] * 4, [0, 0.6, 0.4, 0]]
    policy = policy_for(Table((torch.tensor(rows, dtype=torch.float64) + 1e-300).log()))
    found = choice_probabilities(policy, [(3,)], [(1,), (1, 0), (2,)])
    assert found[0].tolist() == pytest.approx([0.06, 0.54, 0.4], abs=1e-9)


@pytest.mark.parametrize("choices", CHOICES)
def test_temperature_0_is_the_likeliest(choices: str) -> None:
    policy = recurrent()
    found = choice_probabilities(policy, PREFIXES, CHOICES[choices], temperature=0.0)
    soft = choice_probabilities(policy, PREFIXES, CHOICES[choices])
    assert torch.equal(found.argmax(dim=1), soft.argmax(dim=1))
    assert sorted(found.flatten().unique().tolist()) == [0, 1]
    assert found.sum(dim=1).tolist() == [1] * len(PREFIXES)


@pytest.mark.parametrize("name", POLICIES)
def test_batch_and_single_and_uncached_agree(name: str) -> None:
    policy, choices = POLICIES[name](), CHOICES["three tokens"]
    together = choice_probabilities(policy, PREFIXES, choices)
    apart = torch.cat([choice_probabilities(policy, [prefix], choices) for prefix in PREFIXES])
    uncached = choice_probabilities(policy, PREFIXES, choices, use_cache=False)
    for other in (apart, uncached):
        assert torch.allclose(together, other, atol=1e-4)  # float32 parts


@pytest.mark.parametrize("choices", CHOICES)
def test_probabilities_are_a_distribution_in_float64(choices: str) -> None:
    found = choice_probabilities(recurrent(), PREFIXES, CHOICES[choices])
    assert found.dtype == torch.float64
    assert found.sum(dim=1).tolist() == pytest.approx([1] * len(PREFIXES))
    assert bool((found >= 0).all())


def test_the_order_of_the_choices_only_orders_the_answer() -> None:
    policy, choices = recurrent(), CHOICES["three tokens"]
    forwards = choice_probabilities(policy, PREFIXES, choices)
    backwards = choice_probabilities(policy, PREFIXES, choices[::-1])
    assert torch.allclose(forwards, backwards.flip(1), atol=1e-12)


def test_a_single_choice_is_certain() -> None:
    assert choice_probabilities(recurrent(), PREFIXES, [(4, 4)]).flatten().tolist() == [1] * len(PREFIXES)


def test_choices_so_unlikely_that_their_probabilities_underflow_are_still_told_apart() -> None:
    """p = e^-400 and e^-402 for two tokens of three: shares 1 / (1 + e^-2) and its complement."""
    policy = policy_for(Table(torch.tensor([[-400.0, -402.0, 0.0]]).double().expand(3, 3)))
    found = choice_probabilities(policy, [(2,)], [(0, 0), (1, 1)])
    assert found[0, 0].item() == pytest.approx(1 / (1 + math.exp(-4)), abs=1e-12)

"""What is drawn follows the filtered distribution, and nothing else can be drawn."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from self_rewarding_lm_pytorch.errors import GenerationError
from self_rewarding_lm_pytorch.generation.filters import min_p, top_k, top_p
from self_rewarding_lm_pytorch.generation.sampling import (
    Sampling,
    UnusableLogits,
    filtered_probabilities,
    sample,
)
from self_rewarding_lm_pytorch.seeds import address, uniforms

PROBABILITIES = [0.15, 0.4, 0.05, 0.3, 0.1]
LOGITS = torch.tensor([PROBABILITIES], dtype=torch.float64).log()


def draws(sampling: Sampling, count: int) -> list[int]:
    keys = torch.tensor([address("test of sampling", i) for i in range(count)])
    tokens = sample(LOGITS.expand(count, -1), sampling, uniforms(keys, 3))
    return torch.bincount(tokens, minlength=5).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0, None), PROBABILITIES),
        # temperature 1/2 squares: 0.0225, 0.16, 0.0025, 0.09, 0.01 of 0.285
        (Sampling(0.5, None), [0.0225 / 0.285, 0.16 / 0.285, 0.0025 / 0.285, 0.09 / 0.285, 0.01 / 0.285]),
        # 0.4, 0.3 and 0.15 reach 0.8: shares of 0.85
        (Sampling(1.0, top_p, {"thres": 0.8}), [0.15 / 0.85, 0.4 / 0.85, 0, 0.3 / 0.85, 0]),
        (Sampling(1.0, top_k, {"k": 2}), [0, 4 / 7, 0, 3 / 7, 0]),
        (Sampling(1.0, min_p, {"p": 0.3}), [0.15 / 0.85, 0.4 / 0.85, 0, 0.3 / 0.85, 0]),
        # temperature first: of the squared shares the two likeliest alone reach 0.8 (0.877)
        (Sampling(0.5, top_p, {"thres": 0.8}), [0, 16 / 25, 0, 9 / 25, 0]),
    ],
    ids=["plain", "temperature", "top_p", "top_k", "min_p", "temperature, then top_p"],
)
def test_sampled_frequencies_are_those_of_the_filtered_distribution(
    sampling: Sampling, expected: list[float]
) -> None:
    """Chi-square over 40,000 draws; a right sampler fails one time in a million, and the keys are fixed."""
    assert filtered_probabilities(LOGITS, sampling)[0].tolist() == pytest.approx(expected, abs=1e-12)
    counts = draws(sampling, 40_000)
    possible = [(n, 40_000 * p) for n, p in zip(counts, expected, strict=True) if p > 0]
    assert sum(n for n, _ in possible) == 40_000, "a refused token was drawn"
    assert chisquare(*zip(*possible, strict=True)).pvalue > 1e-6


def test_the_uniform_number_picks_the_token_by_the_cumulative_distribution() -> None:
    """Cumulated: 0.15, 0.55, 0.6, 0.9, 1."""
    places = [0.0, 0.1499, 0.1501, 0.5499, 0.5501, 0.6001, 0.8999, 0.9001, 1 - 2**-53]
    tokens = sample(LOGITS.expand(9, -1), Sampling(1.0, None), torch.tensor(places, dtype=torch.float64))
    assert tokens.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]


def test_tokens_of_probability_zero_are_never_drawn_even_at_the_ends() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    places = torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert sample(logits.expand(4, -1), Sampling(1.0, None), places).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.0), Sampling(0.0, None), Sampling(1.7, top_k, {"k": 1}), Sampling(1.0, min_p, {"p": 1.0})],
    ids=["temperature 0", "temperature 0 unfiltered", "top-k 1", "min-p 1"],
)
def test_greedy_settings_take_the_argmax_whatever_the_uniform(sampling: Sampling) -> None:
    logits = torch.randn(64, 30)
    tokens = sample(logits, sampling, torch.rand(64, dtype=torch.float64))
    assert torch.equal(tokens, logits.argmax(dim=-1))


def test_greedy_ties_go_to_the_lowest_id() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert sample(logits, Sampling(0.0), torch.tensor([0.9])).tolist() == [1]


def test_the_default_is_that_of_the_paper() -> None:
    """Temperature 0.7 and top-p 0.9 (2401.10020, section 3.1)."""
    assert (Sampling().temperature, Sampling().filter_fn, dict(Sampling().filter_kwargs)) == (0.7, top_p, {})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_of_logits_can_be_sampled(dtype: torch.dtype) -> None:
    probabilities = filtered_probabilities(LOGITS.to(dtype), Sampling(1.0, None))
    assert probabilities.dtype == torch.float64
    assert probabilities.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(
    ("row", "said"),
    [([0.0, math.nan, 1.0], "nan"), ([-math.inf] * 3, "-inf"), ([0.0, math.inf, 1.0], "inf")],
    ids=["NaN", "all minus infinity", "plus infinity"],
)
def test_logits_that_give_no_distribution_name_their_row(
    temperature: float, row: list[float], said: str
) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], row])
    with pytest.raises(UnusableLogits, match=said) as error:
        sample(logits, Sampling(temperature), torch.tensor([0.5, 0.5]))
    assert error.value.row == 1


def test_a_filter_that_refuses_everything_names_the_row() -> None:
    def refuse_row_1(logits: Tensor) -> Tensor:
        return logits.index_fill(0, torch.tensor([1]), -math.inf)

    with pytest.raises(UnusableLogits, match="filter refused every token") as error:
        sample(LOGITS.expand(3, -1), Sampling(1.0, refuse_row_1), torch.rand(3))
    assert error.value.row == 1


@pytest.mark.parametrize(
    ("filter_fn", "said"),
    [(lambda logits: logits[:, :2], r"torch.Size\(\[1, 2\]\)"), (lambda logits: None, "NoneType")],
    ids=["too few columns", "nothing"],
)
def test_a_filter_of_the_users_that_returns_another_shape_is_refused(filter_fn: Any, said: str) -> None:
    with pytest.raises(GenerationError, match=said) as error:
        sample(LOGITS, Sampling(1.0, filter_fn), torch.rand(1))
    assert "(1, 5)" in str(error.value)


def test_a_filter_of_the_users_gets_its_arguments_after_the_temperature() -> None:
    seen: list[Tensor] = []

    def spy(logits: Tensor, *, ban: int) -> Tensor:
        seen.append(logits)
        return logits.index_fill(1, torch.tensor([ban]), -math.inf)

    probabilities = filtered_probabilities(LOGITS, Sampling(0.5, spy, {"ban": 1}))
    assert torch.allclose(seen[0], LOGITS * 2)
    assert probabilities[0, 1] == 0

"""What is drawn follows the filtered distribution, and nothing else can be drawn."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
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


def rows_of_logits(width: int, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    logits = torch.randn(24, width, generator=generator, dtype=torch.float64)
    if kind == "peaked":
        return logits * 4
    if kind == "flat":
        return logits * 0.3
    if kind == "few values":
        return (logits * 2).round()
    if kind == "equal":
        return torch.ones_like(logits)
    some = torch.rand(24, width, generator=generator) < 0.9
    some[:, width // 2] = False
    return (logits * 3).masked_fill(some, -math.inf)


def num_kept(descending: np.ndarray, sampling: Sampling) -> int:
    """The definitions, for the probabilities of one row."""
    size = len(descending)
    if sampling.filter_fn is top_k:
        return min(int(sampling.filter_kwargs["k"]), size)
    if sampling.filter_fn is min_p:
        return int((descending >= sampling.filter_kwargs["p"] * descending[0]).sum())
    thres = sampling.filter_kwargs["thres"] if sampling.filter_fn is top_p else 1
    return size if thres == 1 else 1 + int((np.cumsum(descending)[:-1] < thres).sum())


def cumulative(logits: Tensor, sampling: Sampling) -> np.ndarray:
    """Of the kept tokens in order of id, written with sorts of everything in float64: (B, V)."""
    scaled = (logits.numpy() / logits.numpy().dtype.type(sampling.temperature)).astype(np.float64)
    probabilities = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    for row, order in zip(probabilities, np.argsort(-scaled, axis=-1, kind="stable"), strict=True):
        row[order[num_kept(row[order], sampling) :]] = 0
    return np.cumsum(probabilities, axis=-1)


SAMPLINGS = {
    "plain": [Sampling(t, None) for t in (0.5, 1.0, 1.7)],
    "top_p": [Sampling(0.7, top_p, {"thres": thres}) for thres in (1e-6, 0.1, 0.5, 0.9, 0.999, 1)],
    "top_k": [Sampling(1.3, top_k, {"k": k}) for k in (1, 2, 64, 65, 512, 513, 5000, 5005)],
    "min_p": [Sampling(1.0, min_p, {"p": p}) for p in (0, 0.05, 0.5, 1)],
}


@pytest.mark.parametrize("kind", ["peaked", "flat", "few values", "equal", "partly minus infinity"])
@pytest.mark.parametrize("width", [1, 5, 63, 64, 65, 130, 500, 600, 5000])
@pytest.mark.parametrize("samplings", list(SAMPLINGS.values()), ids=list(SAMPLINGS))
def test_the_same_token_is_drawn_as_by_sorting_everything(
    samplings: list[Sampling], width: int, kind: str
) -> None:
    """Distributions that end within the first window, the second, neither, or in a tie at an edge."""
    places = torch.rand(24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    places[0], places[1] = 0, 1 - 2**-53
    for sampling in samplings:
        for dtype in (torch.float32, torch.float64):
            logits = rows_of_logits(width, kind).to(dtype)
            given = logits.clone()
            tokens = sample(logits, sampling, places).numpy()
            assert torch.equal(logits, given), "the caller's logits are not written to"
            sums = cumulative(logits, sampling)
            expected = (sums <= places.numpy()[:, None] * sums[:, -1:]).sum(axis=-1)
            others = np.arange(24) != 1  # just under 1 the last bits of the sums decide
            assert (tokens[others] == expected[others]).all(), (sampling, dtype)
            steps = np.diff(sums[1], prepend=0)
            assert steps[tokens[1]] > 0
            assert sums[1, -1] - sums[1, tokens[1]] < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_drawn_from_as_if_given_in_float32(dtype: torch.dtype) -> None:
    logits = (torch.randn(64, 5000) * 3).to(dtype)
    places = torch.rand(64, dtype=torch.float64)
    assert torch.equal(sample(logits, Sampling(), places), sample(logits.float(), Sampling(), places))


def test_a_row_is_drawn_alike_alone_and_among_others() -> None:
    logits = torch.randn(9, 5000) * torch.linspace(0.1, 5, 9)[:, None]
    places = torch.rand(9, dtype=torch.float64)
    alone = [sample(logits[i : i + 1], Sampling(), places[i : i + 1]) for i in range(9)]
    assert torch.equal(sample(logits, Sampling(), places), torch.cat(alone))


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
    logits = torch.zeros(2, 5000)
    logits[0, [4, 90, 4999]] = 1
    assert sample(logits, Sampling(0.0), torch.tensor([0.9, 0.9])).tolist() == [4, 0]


def test_the_default_is_that_of_the_paper() -> None:
    """Temperature 0.7 and top-p 0.9 (2401.10020, section 3.1)."""
    assert (Sampling().temperature, Sampling().filter_fn, dict(Sampling().filter_kwargs)) == (0.7, top_p, {})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_of_logits_can_be_sampled(dtype: torch.dtype) -> None:
    probabilities = filtered_probabilities(LOGITS.to(dtype), Sampling(1.0, None))
    assert probabilities.dtype == torch.float64
    assert probabilities.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.0), *(Sampling(0.7, filter_fn) for filter_fn in (None, top_p, top_k, min_p, torch.clone))],
    ids=["temperature 0", "plain", "top_p", "top_k", "min_p", "a filter of the user's"],
)
@pytest.mark.parametrize(
    ("row", "said"),
    [([0.0, math.nan, 1.0], "nan"), ([-math.inf] * 3, "-inf"), ([0.0, math.inf, 1.0], "inf")],
    ids=["NaN", "all minus infinity", "plus infinity"],
)
@pytest.mark.parametrize("width", [3, 5000])
def test_logits_that_give_no_distribution_name_the_first_such_row(
    width: int, row: list[float], said: str, sampling: Sampling
) -> None:
    logits = torch.randn(6, width)
    logits[[2, 4]] = torch.tensor(row).repeat(width // 3 + 1)[:width]
    with pytest.raises(UnusableLogits, match=f"is {said}") as error:
        sample(logits, sampling, torch.rand(6))
    assert error.value.row == 2


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

    sampling = Sampling(0.5, spy, {"ban": 1})
    assert filtered_probabilities(LOGITS, sampling)[0, 1] == 0
    # Without token 1 the squares are 0.0225, 0.0025, 0.09, 0.01 of 0.125: cumulated 0.18, 0.2, 0.92, 1.
    places = torch.tensor([0.179, 0.181, 0.201, 0.919, 0.921], dtype=torch.float64)
    assert sample(LOGITS.expand(5, -1), sampling, places).tolist() == [0, 2, 3, 3, 4]
    assert all(torch.allclose(logits, LOGITS * 2) for logits in seen)


@dataclass
class Nucleus:
    """Unhashable, as such classes are."""

    thres: float

    def __call__(self, logits: Tensor) -> Tensor:
        return top_p(logits, self.thres)


def test_a_filter_of_the_users_draws_as_ours_does_where_it_does_the_same() -> None:
    logits = torch.randn(200, 5000) * 3
    places = torch.rand(200, dtype=torch.float64)
    theirs = Sampling(0.7, Nucleus(0.9))
    assert torch.equal(sample(logits, theirs, places), sample(logits, Sampling(), places))


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(1.0, None), Sampling(0.0)], ids=["top-p", "all", "best"]
)
@pytest.mark.parametrize("width", [9, 2000])
def test_samples_that_share_a_row_draw_as_from_rows_of_their_own(sampling: Sampling, width: int) -> None:
    logits = 3 * torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    rows = [0, 0, 1, 2, 2, 2]
    places = torch.tensor([0.1, 0.9, 0.5, 0.2, 0.6, 0.99], dtype=torch.float64)
    assert torch.equal(sample(logits, sampling, places, rows), sample(logits[rows], sampling, places))


def test_the_row_that_cannot_be_drawn_from_is_named_where_samples_share_rows() -> None:
    logits = torch.randn(3, 700)
    logits[2, 5] = math.nan
    with pytest.raises(UnusableLogits) as refused:
        sample(logits, Sampling(), torch.rand(4), [0, 1, 1, 2])
    assert refused.value.row == 2

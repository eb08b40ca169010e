"""Filters against distributions worked by hand."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.filters import FILTERS, NUM_KEPT, min_p, top_k, top_p


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def kept(filtered: Tensor) -> list[int]:
    return filtered[0].isfinite().nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("thres", "expected"),
    [
        (0.05, [1]),  # the likeliest always stays
        (0.45, [1]),
        (0.55, [1, 3]),  # 0.5 is not enough, 0.8 is
        (0.75, [1, 3]),
        (0.85, [1, 3, 0]),  # 0.95
        (0.97, [1, 3, 0, 2]),
        (1.0, [1, 3, 0, 2]),
    ],
)
def test_top_p_keeps_the_fewest_tokens_that_reach_the_threshold(thres: float, expected: list[int]) -> None:
    """Probabilities 0.15, 0.5, 0.05, 0.3."""
    assert kept(top_p(logits(0.15, 0.5, 0.05, 0.3), thres)) == sorted(expected)


def test_top_p_among_equals_keeps_only_as_many_as_are_needed() -> None:
    """Four tokens of exactly 1/4: 0.5 takes two, 0.51 takes three."""
    equal = torch.zeros(1, 4, dtype=torch.float64)
    assert kept(top_p(equal, 0.5)) == [0, 1], "the lower ids"
    assert kept(top_p(equal, 0.51)) == [0, 1, 2]


@pytest.mark.parametrize(("k", "expected"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (99, [0, 1, 2, 3])])
def test_top_k_keeps_the_k_likeliest(k: int, expected: list[int]) -> None:
    assert kept(top_k(logits(0.15, 0.5, 0.05, 0.3), k)) == expected


def test_top_k_among_equals_keeps_the_lower_ids() -> None:
    assert kept(top_k(logits(0.2, 0.2, 0.4, 0.2), 2)) == [0, 2]
    assert kept(top_k(torch.zeros(1, 50), 3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, [0, 1, 2, 3]), (0.09, [0, 1, 2, 3]), (0.2, [0, 1, 3]), (0.5, [1, 3]), (0.7, [1]), (1.0, [1])],
)
def test_min_p_keeps_tokens_near_the_likeliest(p: float, expected: list[int]) -> None:
    """Shares of the likeliest: 0.15/0.5 = 0.3, 1, 0.05/0.5 = 0.1, 0.3/0.5 = 0.6."""
    assert kept(min_p(logits(0.15, 0.5, 0.05, 0.3), p)) == expected


def test_min_p_keeps_all_of_the_likeliest_when_they_are_equal() -> None:
    assert kept(min_p(logits(0.4, 0.4, 0.2), 1.0)) == [0, 1]


@pytest.mark.parametrize("name", list(FILTERS))
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=12))
def test_kept_logits_are_unchanged_and_the_likeliest_is_kept(name: str, row: list[float]) -> None:
    given_logits = torch.tensor([row], dtype=torch.float64)
    before = given_logits.clone()
    filtered = FILTERS[name](given_logits)
    assert torch.equal(given_logits, before), "the caller's logits are not written to"
    finite = filtered.isfinite()
    assert torch.equal(filtered[finite], given_logits[finite])
    assert bool((filtered[~finite] == -math.inf).all())
    assert filtered.max() == given_logits.max()


@pytest.mark.parametrize("name", list(FILTERS))
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=80), st.integers(1, 80))
def test_what_is_kept_can_be_told_from_the_likeliest_tokens_alone(
    name: str, row: list[int], window: int
) -> None:
    """The first of a stable sort are kept, and as many are counted among the likeliest few."""
    given_logits = torch.tensor([row], dtype=torch.float64)
    order = sorted(range(len(row)), key=lambda token: -row[token])
    ids = kept(FILTERS[name](given_logits))
    assert ids == sorted(order[: len(ids)])
    descending = given_logits.softmax(dim=-1)[:, order]
    counted = NUM_KEPT[FILTERS[name]](descending[:, :window])
    assert counted.tolist() == [min(len(ids), window)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", list(FILTERS))
def test_the_type_of_the_logits_stays(name: str, dtype: torch.dtype) -> None:
    filtered = FILTERS[name](logits(0.01, 0.8, 0.04, 0.15).to(dtype))
    assert filtered.dtype == dtype
    assert {1, 3} <= set(kept(filtered))


@pytest.mark.parametrize("name", list(FILTERS))
def test_rows_are_filtered_each_on_its_own(name: str) -> None:
    rows = torch.randn(5, 9, dtype=torch.float64)
    together = FILTERS[name](rows)
    apart = torch.cat([FILTERS[name](row[None]) for row in rows])
    assert torch.equal(together, apart)


@pytest.mark.parametrize("name", list(FILTERS))
def test_tokens_already_refused_stay_refused(name: str) -> None:
    given_logits = torch.tensor([[0.0, -math.inf, 1.0, -math.inf]])
    assert set(kept(FILTERS[name](given_logits))) <= {0, 2}


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("top_p", {"thres": 0.0}, "top_p: thres=0.0"),
        ("top_p", {"thres": 1.5}, "thres=1.5"),
        ("top_k", {"k": 0}, "top_k: k=0"),
        ("min_p", {"p": -0.1}, "min_p: p=-0.1"),
        ("min_p", {"p": 2}, "p=2"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_with_its_value(
    name: str, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        FILTERS[name](torch.zeros(1, 4), **arguments)

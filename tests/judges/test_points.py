"""Scores are compared and rounded as the exact means that they stand for."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.judges.points import at_least, floor, nearest, order, same_point

TENTHS = st.lists(st.integers(-50, 50), min_size=1, max_size=5)


def exact(tenths: list[int]) -> Fraction:
    return Fraction(sum(tenths), 10 * len(tenths))


def as_float(tenths: list[int]) -> float:
    return fmean(each / 10 for each in tenths)


@given(TENTHS, TENTHS)
def test_means_of_decimals_stand_as_their_exact_values_do(one: list[int], other: list[int]) -> None:
    expected = (exact(one) > exact(other)) - (exact(one) < exact(other))
    assert order(as_float(one), as_float(other)) == expected
    assert at_least(as_float(one), as_float(other)) is (expected >= 0)


def test_what_differs_by_rounding_alone_is_the_same() -> None:
    assert 0.1 + 0.2 > 0.3 and order(0.1 + 0.2, 0.3) == 0
    assert -0.1 + 0.3 - 0.2 != 0 and order(-0.1 + 0.3 - 0.2, 0.0) == 0
    assert order(1e6 + 1e-3, 1e6) == 1 and order(0.0, 1e-9) == -1, "a small difference is one"
    assert order(math.inf, math.inf) == 0 and order(-math.inf, 0.0) == -1
    assert at_least(math.inf, 1.0) and not at_least(math.nan, 1.0) and not at_least(1.0, math.nan)


@given(TENTHS)
def test_a_mean_is_rounded_as_its_exact_value_halves_up(tenths: list[int]) -> None:
    assert nearest(as_float(tenths)) == math.floor(exact(tenths) + Fraction(1, 2))


@pytest.mark.parametrize(
    ("score", "whole"),
    [
        (0.5, 1),
        (2.5, 3),
        (2.4999999999999996, 3),
        (2.49, 2),
        (-0.5, 0),
        (-2.5, -2),
        (-2.5000000000000004, -2),
    ],
)
def test_halves_are_rounded_up_below_zero_too(score: float, whole: int) -> None:
    assert nearest(score) == whole
    assert same_point(score, whole)


def test_a_value_just_under_a_whole_number_counts_as_it() -> None:
    assert int((0.6 - 0.5) * 10) == 0 and floor((0.6 - 0.5) * 10) == 1
    assert floor(0.99) == 0 and floor(-0.01) == -1

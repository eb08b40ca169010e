"""Comparing and rounding scores, most of which are means: what float arithmetic adds is no difference."""

from __future__ import annotations

import math

ROUNDING = 1e-12
"""Scores this close, as a share of the larger one (or in points, where both are small), are the same."""

_NEXT_TO = 1e-9  # of a half or a bin's edge; the mean of a few whole votes is on it or much further away


def order(one: float, other: float) -> int:
    """1 where one score is higher than the other, -1 where it is lower, 0 where they are the same."""
    return 0 if _are_same(one, other) else (one > other) - (one < other)


def at_least(one: float, other: float) -> bool:
    """Whether one score is the other or higher."""
    return one >= other or _are_same(one, other)


def _are_same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)


def floor(value: float) -> int:
    """The whole number at or below; what is a whole number but for rounding counts as that one."""
    return math.floor(value + _NEXT_TO)


def nearest(score: float) -> int:
    """The nearest whole number, halves up (-0.5 is 0); 2.4999999999999996 is a half, too."""
    return floor(score + 0.5)


def same_point(score: float, rating: float) -> bool:
    """Whether both are the same whole number once rounded, halves up."""
    return nearest(score) == nearest(rating)

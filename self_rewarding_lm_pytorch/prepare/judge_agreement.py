"""Which of a judge's written votes agree with people, and how scores that are too common are thinned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from self_rewarding_lm_pytorch.judges.points import order, same_point
from self_rewarding_lm_pytorch.records import JudgedPrompt

Agreement = Literal["order", "exact"]

LEAST_KEPT = 0.5
"""Thinning keeps at least this share of the examples, even where a score then stays over its share."""


def has_order(judged: JudgedPrompt) -> bool:
    """Whether people set any two of its responses apart."""
    return len(set(judged.worths)) > 1


def agrees_in_order(
    score: float, place: int, worths: Sequence[float], means: Sequence[float | None]
) -> bool | None:
    """Whether a vote's score for response `place` stands where people put that response.

    It does if it is over the mean score of each response of lower worth and under that of each of higher
    worth, strictly. worths, means: of all responses to the prompt; means are the judge's, None where it gave
    none. None: no response of another worth has a score, so this cannot be told.
    """
    others = [
        (worth, mean)
        for worth, mean in zip(worths, means, strict=True)
        if mean is not None and worth != worths[place]
    ]
    if not others:
        return None
    return all(order(score, mean) == (1 if worths[place] > worth else -1) for worth, mean in others)


def agrees_exactly(score: float, rating: float) -> bool:
    """Whether score and rating are the same whole number once rounded, halves up."""
    return same_point(score, rating)


def kept_of_each(counts: Counter[int], max_share: float) -> dict[int, int]:
    """How many examples of each score stay: all up to a common cap, the largest that meets `max_share`.

    counts: score -> examples. With the cap no score is more than max_share of what stays. Where that would
    cost more than LEAST_KEPT of all (few different scores, or all but one of them rare), the cap is the
    smallest that costs no more. A single score is left alone: thinning it would balance nothing.
    """
    if len(counts) < 2:
        return dict(counts)
    total = counts.total()
    for cap in range(max(counts.values()), 0, -1):
        kept = _capped(counts, cap)
        if max(kept.values()) <= max_share * sum(kept.values()) + 1e-9:
            break
        if sum(_capped(counts, cap - 1).values()) < LEAST_KEPT * total:
            break
    return kept


def _capped(counts: Counter[int], cap: int) -> dict[int, int]:
    return {score: min(count, cap) for score, count in sorted(counts.items())}

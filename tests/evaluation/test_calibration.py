"""What a judge's points and probabilities mean, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from self_rewarding_lm_pytorch.evaluation.bootstrap import Estimate, measured, resamples
from self_rewarding_lm_pytorch.evaluation.calibration import (
    Scale,
    entropies,
    histogram,
    probability_errors,
    rating_errors,
    vote_figures,
)
from self_rewarding_lm_pytorch.evaluation.comparisons import Comparison
from self_rewarding_lm_pytorch.judges.base import judgment_of
from self_rewarding_lm_pytorch.records import JudgedPrompt, Judgment, Vote
from tests.helpers import candidate

POINTS = Scale(0, 5, True)


def values(found: dict[str, Estimate], num_prompts: int) -> dict[str, float | None]:
    return {n: measured(e, resamples(num_prompts, draws=20, seed=(0,))).value for n, e in found.items()}


def judgment(*scores: float | None, statuses: Any = None) -> Judgment:
    kinds = statuses or ["parsed" if score is not None else "unparsed" for score in scores]
    votes = [Vote(k, "", score, kind) for k, (score, kind) in enumerate(zip(scores, kinds, strict=True))]
    return judgment_of(candidate(0, 0), votes)


def test_errors_in_points_and_the_reliability_table_by_hand() -> None:
    prompts = [
        JudgedPrompt(0, "p", ("a", "b"), (4.0, 2.0), True),
        JudgedPrompt(1, "q", ("c", "d"), (5.0, 1.0), True),
        JudgedPrompt(2, "r", ("e", "f"), (1.0, 0.0), False),
    ]
    figures, table = rating_errors([[5.0, 2.0], [4.6, None], [3.0, 0.0]], prompts, POINTS)
    got = values(figures, 3)
    # Scores less ratings: 5 - 4, 2 - 2, 4.6 - 5; the third prompt is not rated, one response has no score.
    assert got["bias"] == pytest.approx((1 + 0 - 0.4) / 3)
    assert got["mae"] == pytest.approx((1 + 0 + 0.4) / 3)
    # Bin 5 holds 5 and 4.6 (mean 4.8) rated 4 and 5 (mean 4.5): a gap of 0.3 for two of three.
    assert got["ece"] == pytest.approx(0.3 * 2 / 3)
    assert table == [
        {"score": 2.0, "num": 1, "mean_score": 2.0, "mean_rating": 2.0},
        {"score": 5.0, "num": 2, "mean_score": pytest.approx(4.8), "mean_rating": 4.5},
    ]


def test_without_ratings_there_is_no_error_to_tell() -> None:
    figures, table = rating_errors(
        [[1.0, 2.0]], [JudgedPrompt(0, "p", ("a", "b"), (1.0, 0.0), False)], POINTS
    )
    assert set(values(figures, 1).values()) == {None}
    assert table == []


def test_entropy_is_zero_for_a_judge_of_one_score_and_all_for_one_that_uses_every_point_alike() -> None:
    constant = values(entropies([[3.0, 3.0], [3.2]], POINTS), 2)
    assert constant == {"score_entropy": 0.0, "score_entropy_share": 0.0}
    even = values(entropies([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], POINTS), 2)
    assert even == {"score_entropy": pytest.approx(math.log(6)), "score_entropy_share": pytest.approx(1.0)}
    # Half and a quarter and a quarter: (ln 2) / 2 + (ln 4) / 2.
    some = values(entropies([[0.0, 0.0, 1.0, 2.0]], POINTS), 1)
    assert some["score_entropy"] == pytest.approx(1.5 * math.log(2))
    assert set(values(entropies([[], []], POINTS), 2).values()) == {None}


def test_a_histogram_has_every_point_of_the_scale_and_keeps_what_lies_beyond_it() -> None:
    bins = histogram([0.4, 4.6, 5.0, 7.0, -1.0], POINTS)
    assert [(each["score"], each["num"]) for each in bins] == [(0, 2), (1, 0), (2, 0), (3, 0), (4, 0), (5, 3)]
    tenths = histogram([0.0, 0.05, 0.95, 1.0], Scale(0.0, 1.0, False))
    assert [each["num"] for each in tenths] == [2, *[0] * 8, 2]


def test_halves_go_to_the_point_above_in_every_bin() -> None:
    bins = histogram([0.5, 1.5, 2.5, 3.5, 4.5, 2.4999999999999996], POINTS)
    assert [each["num"] for each in bins] == [0, 1, 1, 2, 1, 1]
    below = histogram([-2.5, -1.5, -0.5, 0.5], Scale(-3, 1, True))
    assert [(each["score"], each["num"]) for each in below] == [(-3, 0), (-2, 1), (-1, 1), (0, 1), (1, 1)]
    _, table = rating_errors([[2.5]], [JudgedPrompt(0, "p", ("a",), (3.0,), True)], POINTS)
    assert [row["score"] for row in table] == [3.0]


def test_a_score_on_a_bins_lower_edge_is_in_that_bin() -> None:
    scale = Scale(1.0, 2.0, False)
    edges = [1 + tenth / 10 for tenth in range(10)]
    assert [scale.bin(edge) for edge in edges] == list(range(10))
    # Both are confidences of 0.6, in a bin with 0.65: one is right and one wrong, a gap of 1.25 - 1 of two.
    told = [[compared(0.6, 0.6, 1.0), compared(0.65, 0.65, 0.0)]]
    assert values(probability_errors(told), 1)["ece_probability"] == pytest.approx(0.25 / 2)


def test_votes_by_hand() -> None:
    judgments = [
        [judgment(3.0, 3.0, 4.0), judgment(2.0, None, 2.0)],
        [judgment(None, None, None), judgment(5.0)],
    ]
    got = values(vote_figures(judgments, repeated=True), 2)
    assert got["parse_rate"] == pytest.approx(6 / 10)
    # Two votes of a response: (3, 3) alike, (3, 4) twice not, (2, 2) alike.
    assert got["vote_agreement"] == pytest.approx(2 / 4)
    # Standard deviations: of 3, 3, 4 it is sqrt(1/3), of 2, 2 it is 0; the others have no two votes.
    assert got["vote_sd"] == pytest.approx(math.sqrt(1 / 3) / 2)


def test_a_forced_score_is_no_vote_that_the_judge_wrote() -> None:
    forced = judgment(None, 3.0, statuses=["unparsed", "forced"])
    assert values(vote_figures([[forced]], repeated=True), 1)["parse_rate"] == 0
    assert set(vote_figures([[forced]], repeated=False)) == {"parse_rate"}


def compared(first: float | None, second: float | None, outcome: float | None) -> Comparison:
    return Comparison(0, 1, first, second, False, outcome)


def test_probabilities_against_outcomes_by_hand() -> None:
    told = [
        [compared(0.9, 0.7, 1.0), compared(0.2, 0.4, 1.0)],  # 0.8 and right; 0.3, so 0.7 and wrong
        [compared(None, None, 1.0), compared(0.9, 0.9, None)],  # not read; people have no order
    ]
    got = values(probability_errors(told), 2)
    assert got["brier"] == pytest.approx((0.2**2 + 0.7**2) / 2)
    # Confidence 0.8 in one bin is right, 0.7 in another is wrong: gaps 0.2 and 0.7.
    assert got["ece_probability"] == pytest.approx((0.2 + 0.7) / 2)


def test_always_saying_one_half_has_a_brier_score_of_one_quarter_and_no_confidence() -> None:
    got = values(probability_errors([[compared(0.5, 0.5, 1.0), compared(0.4, 0.6, 0.0)]]), 1)
    assert got == {"brier": 0.25, "ece_probability": None}

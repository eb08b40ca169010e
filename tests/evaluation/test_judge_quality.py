"""How well a judge agrees with people, worked out by hand."""

import math

import pytest

from self_rewarding_lm_pytorch.evaluation.judge_quality import judge_quality


def test_ties_share_their_rank_and_an_absent_score_takes_no_part() -> None:
    quality = judge_quality([1.0, 2.0, 2.0, 4.0, None], [1, 3, 2, 5, 0])
    # ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: covariance 4.5, squares 4.5 and 5
    assert quality.spearman == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert quality.exact == 0.5, "1 and 2 agree, 2 against 3 and 4 against 5 do not"
    assert quality.scored == 0.8


@pytest.mark.parametrize(
    ("scores", "labels", "spearman"),
    [
        ([0.0, 1.0, 2.0], [3, 4, 5], 1.0),
        ([2.0, 1.0, 0.0], [3, 4, 5], -1.0),
        ([1.0, 10.0, 100.0], [0, 1, 2], 1.0),
        ([1.0, 2.0, 3.0, 4.0], [2, 1, 4, 3], 1 - 6 * 4 / (4 * 15)),
    ],
)
def test_the_correlation_is_of_ranks(scores: list[float], labels: list[float], spearman: float) -> None:
    assert judge_quality(scores, labels).spearman == pytest.approx(spearman)


def test_a_mean_of_votes_agrees_when_it_rounds_to_the_label() -> None:
    assert judge_quality([2.4, 2.6, 3.67, 0.0], [2, 2, 4, 0]).exact == 0.75


def test_a_half_is_rounded_up() -> None:
    assert judge_quality([0.5, 2.5, 2.4999999999999996, 2.5], [1, 3, 3, 2]).exact == 0.75


def test_where_nothing_can_be_told_it_is_nan_and_not_zero() -> None:
    for scores in ([None, None], [3.0, None]):
        quality = judge_quality(scores, [1, 2])
        assert math.isnan(quality.spearman)
        assert math.isnan(quality.exact)
    collapsed = judge_quality([3.0, 3.0, 3.0], [1, 2, 3])
    assert math.isnan(collapsed.spearman), "a judge of one score ranks nothing"
    assert collapsed.exact == pytest.approx(1 / 3)
    assert judge_quality([], []).scored == 0


def test_scores_and_labels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        judge_quality([1.0], [1, 2])

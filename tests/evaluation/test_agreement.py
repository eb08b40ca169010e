"""Agreement of a judge with people, worked out by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from self_rewarding_lm_pytorch.evaluation.agreement import agreement
from self_rewarding_lm_pytorch.evaluation.bootstrap import Estimate, measured, resamples
from self_rewarding_lm_pytorch.evaluation.ranks import kendall, spearman
from self_rewarding_lm_pytorch.prepare.judge_agreement import agrees_exactly
from self_rewarding_lm_pytorch.records import JudgedPrompt


def judged(index: int, *worths: float, is_rated: bool = False) -> JudgedPrompt:
    return JudgedPrompt(index, f"p{index}", tuple(f"r{n}" for n in range(len(worths))), worths, is_rated)


def values(found: dict[str, Estimate], num_prompts: int) -> dict[str, float | None]:
    draws = resamples(num_prompts, draws=20, seed=(0,))
    return {name: measured(estimate, draws).value for name, estimate in found.items()}


def test_four_prompts_by_hand() -> None:
    prompts = [judged(0, 3, 2, 1), judged(1, 1, 0), judged(2, 1, 0), judged(3, 2, 2)]
    scores: list[list[float | None]] = [[5, 3, 3], [2, 4], [None, 4], [1, 5]]
    found = agreement(scores, prompts)
    got = values(found, 4)
    # Pairs that people order: three of the first prompt (right, right, tied), one of the second (wrong); the
    # third lacks a score, the fourth an order.
    assert got["pairwise_accuracy"] == pytest.approx(2 / 3)
    assert got["pairwise_accuracy_with_ties"] == pytest.approx(2 / 4)
    assert got["tie_share"] == pytest.approx(1 / 4)
    # The highest scores of the first three prompts: 5 to the best, 4 and 4 to the worse one.
    assert got["best_share"] == pytest.approx(1 / 3)
    assert got["exact_match"] == 0
    # First prompt: ranks (3, 1.5, 1.5), (3, 2, 1): 1.5 / sqrt(1.5 * 2); tau-b: 2 / sqrt(2 * 3). Second: -1.
    assert got["spearman"] == pytest.approx((1.5 / math.sqrt(3) - 1) / 2)
    assert got["kendall"] == pytest.approx((2 / math.sqrt(6) - 1) / 2)
    assert got["scored_share"] == pytest.approx(8 / 9)
    assert [found[name].num for name in ("pairwise_accuracy", "tie_share", "spearman")] == [3, 4, 2]
    assert got["exact_score"] is None and got["spearman_pooled"] is None, "these worths are no ratings"


def test_the_top_score_of_a_scale_is_given_less_often_than_a_prompts_highest() -> None:
    prompts = [judged(0, 1, 0), judged(1, 1, 0), judged(2, 1, 0)]
    scores: list[list[float | None]] = [[5, 5], [5, 2], [3, 4]]
    # Of three responses with 5 points two are the best; of the highest of each prompt two of four.
    assert values(agreement(scores, prompts, top_score=5), 3)["best_share"] == pytest.approx(2 / 3)
    assert values(agreement(scores, prompts), 3)["best_share"] == pytest.approx(2 / 4)


def test_an_exact_match_keeps_peoples_ties() -> None:
    prompts = [judged(0, 2, 2, 0), judged(1, 2, 2, 0), judged(2, 2, 1, 0)]
    scores: list[list[float | None]] = [[4, 4, 1], [4, 3, 1], [9, 8, 7]]
    assert values(agreement(scores, prompts), 3)["exact_match"] == pytest.approx(2 / 3)


def test_a_judge_of_one_score_orders_nothing() -> None:
    prompts = [judged(n, 5, 1, is_rated=True) for n in range(3)]
    got = values(agreement([[3.0, 3.0]] * 3, prompts), 3)
    for name in ("pairwise_accuracy", "spearman", "kendall", "spearman_pooled", "kendall_pooled"):
        assert got[name] is None, name
    assert got["pairwise_accuracy_with_ties"] == 0
    assert got["tie_share"] == 1
    assert got["exact_score"] == 0


@pytest.mark.parametrize("scores", [[[None, None]], [[2.0, None]]])
def test_scores_that_are_absent_are_not_zero(scores: list[list[float | None]]) -> None:
    got = values(agreement(scores, [judged(0, 0, 4, is_rated=True)]), 1)
    assert got["pairwise_accuracy_with_ties"] is None
    assert got["spearman"] is None
    assert got["exact_match"] is None


def test_a_mean_of_votes_is_the_rating_where_it_rounds_to_it() -> None:
    prompts = [judged(n, worth, is_rated=True) for n, worth in enumerate((2, 2, 4, 0))]
    assert values(agreement([[2.4], [2.6], [3.67], [0.0]], prompts), 4)["exact_score"] == 0.75


def test_a_half_is_rounded_up_as_where_judge_data_are_prepared() -> None:
    prompts = [judged(n, worth, is_rated=True) for n, worth in enumerate((1, 3, 5, 3, -2, 2, 2.5))]
    scores: list[list[float | None]] = [[0.5], [2.5], [4.5], [2.4999999999999996], [-2.5], [2.5], [2.5]]
    assert values(agreement(scores, prompts), 7)["exact_score"] == pytest.approx(6 / 7)
    told = [
        agrees_exactly(own[0] or 0.0, prompt.worths[0]) for own, prompt in zip(scores, prompts, strict=True)
    ]
    assert told == [True, True, True, True, True, False, True]


def test_scores_that_differ_by_rounding_alone_tie() -> None:
    prompts = [judged(0, 1, 0), judged(1, 1, 1, 0)]
    scores: list[list[float | None]] = [[0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2, 0.0]]
    got = values(agreement(scores, prompts), 2)
    assert got["tie_share"] == pytest.approx(1 / 3)
    assert got["exact_match"] == 0.5
    assert got["best_share"] == pytest.approx(3 / 4)
    top = values(agreement([[0.3, 0.0], [0.0, 0.0, 0.3]], prompts, top_score=0.1 + 0.2), 2)
    assert top["best_share"] == 0.5


def test_there_must_be_a_score_or_none_for_each_response() -> None:
    with pytest.raises(ValueError, match="one score, or None"):
        agreement([[1.0]], [judged(0, 1, 2)])


observations = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(observations)
def test_weighted_correlations_are_scipys_on_repeated_observations(
    given_: list[tuple[int, int, int]],
) -> None:
    x, y, w = (np.array(column, dtype=float) for column in zip(*given_, strict=True))
    again = np.repeat(np.arange(len(x)), w.astype(int))
    if len(set(x[again])) < 2 or len(set(y[again])) < 2:
        assert math.isnan(spearman(x, y, w[None])[0])
        assert math.isnan(kendall(x, y, w[None])[0])
        return
    assert spearman(x, y, w[None])[0] == pytest.approx(stats.spearmanr(x[again], y[again]).statistic)
    assert kendall(x, y, w[None])[0] == pytest.approx(stats.kendalltau(x[again], y[again]).statistic)


def test_correlations_over_all_responses_are_scipys_and_means_are_means_over_prompts() -> None:
    random = np.random.default_rng(3)
    prompts = [judged(n, *map(float, random.integers(0, 6, 4)), is_rated=True) for n in range(40)]
    scores = [[float(round(w + random.normal(), 1)) for w in prompt.worths] for prompt in prompts]
    got = values(agreement(scores, prompts), 40)
    flat = [s for own in scores for s in own], [w for prompt in prompts for w in prompt.worths]
    assert got["spearman_pooled"] == pytest.approx(stats.spearmanr(*flat).statistic)
    assert got["kendall_pooled"] == pytest.approx(stats.kendalltau(*flat).statistic)
    both = [(own, prompt.worths) for own, prompt in zip(scores, prompts, strict=True)]
    told = [pair for pair in both if len(set(pair[1])) > 1]
    assert got["spearman"] == pytest.approx(np.mean([stats.spearmanr(*pair).statistic for pair in told]))
    assert got["kendall"] == pytest.approx(np.mean([stats.kendalltau(*pair).statistic for pair in told]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=4), min_size=1, max_size=6), st.data())
def test_a_judge_that_is_right_is_perfect_and_turned_round_it_is_always_wrong(
    worths: list[list[int]], data: st.DataObject
) -> None:
    prompts = [judged(n, *map(float, own)) for n, own in enumerate(worths)]
    step = data.draw(st.sampled_from((0.5, 1.0, 7.0)))
    right = values(agreement([[step * w for w in own] for own in worths], prompts), len(prompts))
    wrong = values(agreement([[-step * w for w in own] for own in worths], prompts), len(prompts))
    if right["pairwise_accuracy"] is None:
        assert all(len(set(own)) == 1 for own in worths)
        return
    for name in ("pairwise_accuracy", "pairwise_accuracy_with_ties", "exact_match", "best_share"):
        assert right[name] == 1, name
        assert wrong[name] == 0, name
    assert right["spearman"] == pytest.approx(1) and wrong["spearman"] == pytest.approx(-1)
    assert right["kendall"] == pytest.approx(1) and wrong["kendall"] == pytest.approx(-1)


def test_over_very_many_different_scores_tau_is_known_without_an_interval() -> None:
    random = np.random.default_rng(0)
    prompts = [judged(n, float(random.integers(0, 6)), is_rated=True) for n in range(1_200)]
    scores = [[worth + random.normal()] for prompt in prompts for worth in prompt.worths]
    found = agreement(scores, prompts)
    draws = resamples(1_200, draws=30, seed=(0,))
    tau, rho = (measured(found[name], draws) for name in ("kendall_pooled", "spearman_pooled"))
    flat = [own[0] for own in scores], [prompt.worths[0] for prompt in prompts]
    assert tau.value == pytest.approx(stats.kendalltau(*flat).statistic)
    assert tau.low is None
    assert rho.low is not None and rho.low < stats.spearmanr(*flat).statistic < (rho.high or 0)

"""Pairing: best against worst, and every way in which there is no pair, with its reason."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations_with_replacement
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.preferences.pairing import (
    PairingRule,
    always,
    best_and_worst,
    is_not_negative,
    rewards_differ,
)
from self_rewarding_lm_pytorch.preferences.yields import Yield
from self_rewarding_lm_pytorch.records import FinishReason, Judgment, PreferencePair, Skipped, Vote
from tests.helpers import candidate, prompt

ENDS: tuple[FinishReason, ...] = ("length", "eos", "length", "eos")


def outcome(*scores: float | None, texts: list[str] | None = None, **rule: Any) -> PreferencePair | Skipped:
    texts = texts or [f"answer {i}" for i in range(len(scores))]
    candidates = [candidate(7, i, text, visit=2) for i, text in enumerate(texts)]
    judgments = [Judgment(7, 2, i, score) for i, score in enumerate(scores)]
    return PairingRule(**rule).pair(prompt(7), 2, candidates, judgments)


def indices(found: PreferencePair | Skipped) -> tuple[int, int]:
    assert isinstance(found, PreferencePair), found
    return found.chosen_index, found.rejected_index


def reason(found: PreferencePair | Skipped) -> str:
    assert isinstance(found, Skipped), found
    assert (found.prompt_index, found.visit) == (7, 2)
    return found.reason


def test_the_best_is_chosen_and_the_worst_rejected() -> None:
    found = outcome(2.0, 4.5, 1.0, 3.0)
    assert found == PreferencePair(
        prompt_index=7,
        visit=2,
        prompt="why?",
        chosen="answer 1",
        rejected="answer 2",
        prompt_ids=tuple(b"why?"),
        chosen_ids=tuple(b"answer 1"),
        rejected_ids=tuple(b"answer 2"),
        chosen_index=1,
        rejected_index=2,
        chosen_score=4.5,
        rejected_score=1.0,
    )


def test_among_equals_the_first_is_taken() -> None:
    assert indices(outcome(3.0, 5.0, 5.0, 1.0, 1.0)) == (1, 3)


@pytest.mark.parametrize("scores", [(3.0, 3.0), (0.0, 0.0, 0.0), (4.0, None, 4.0)])
def test_equal_scores_are_a_tie(scores: tuple[float | None, ...]) -> None:
    assert reason(outcome(*scores)) == "tie"


NEGATIVE = "reward refused by is_valid_reward, which by default takes 0 and more"


@pytest.mark.parametrize(
    ("scores", "cause"),
    [
        ((None, None), " (no score)"),
        ((5.0, None), " (no score)"),
        ((), ""),
        ((4.0,), ""),
        ((math.nan, 3.0), f" ({NEGATIVE})"),
        ((-1.0, 3.0), f" ({NEGATIVE})"),
        ((None, None, math.nan, 0.0), " (no score)"),
    ],
)
def test_fewer_than_two_scores_make_no_pair_and_the_cause_is_named(
    scores: tuple[float | None, ...], cause: str
) -> None:
    assert reason(outcome(*scores)) == f"fewer than two usable candidates{cause}"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((None, 2.0, 5.0), (2, 1)),
        ((5.0, None, 0.0), (0, 2)),
        ((math.nan, 1.0, 2.0), (2, 1)),
        ((-3.0, 1.0, 2.0), (2, 1)),  # below zero is not valid unless said so
    ],
)
def test_candidates_without_a_valid_score_are_passed_over(
    scores: tuple[float | None, ...], expected: tuple[int, int]
) -> None:
    assert indices(outcome(*scores)) == expected


def test_zero_is_a_score_and_absent_is_not_zero() -> None:
    assert indices(outcome(None, 0.0, 3.0)) == (2, 1)


def test_only_finished_candidates_take_part_where_an_end_is_needed() -> None:
    candidates = [replace(candidate(7, i, f"answer {i}"), finish_reason=r) for i, r in enumerate(ENDS)]
    judgments = [Judgment(7, 0, i, score) for i, score in enumerate((5.0, 4.0, 1.0, 2.0))]
    needs, any_end = PairingRule(needs_end=True), PairingRule()
    assert indices(needs.pair(prompt(7), 0, candidates, judgments)) == (1, 3)
    assert indices(any_end.pair(prompt(7), 0, candidates, judgments)) == (0, 2)
    found = needs.pair(prompt(7), 0, candidates[:2], judgments[:2])
    assert isinstance(found, Skipped)
    assert found.reason == "fewer than two usable candidates (unfinished)"


def test_equal_responses_make_no_pair() -> None:
    assert reason(outcome(4.0, 2.0, texts=["same", "same"])) == "equal responses"


@pytest.mark.parametrize(
    ("margin", "makes_a_pair"), [(0.0, True), (0.4, True), (0.5, True), (0.6, False), (3.0, False)]
)
def test_the_chosen_must_lead_by_the_margin(margin: float, makes_a_pair: bool) -> None:
    found = outcome(3.5, 3.0, min_margin=margin)
    if makes_a_pair:
        assert indices(found) == (0, 1)
    else:
        assert reason(found) == "margin too small"


@pytest.mark.parametrize("margin", [Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(1), Fraction(5, 3)])
def test_a_pair_of_any_three_votes_leads_by_the_margin_as_the_exact_means_do(margin: Fraction) -> None:
    """All votes from 0 to 5; the means are thirds, which no float holds."""
    votes = list(combinations_with_replacement(range(6), 3))
    rule, asked = PairingRule(min_margin=float(margin)), prompt(7)
    candidates = [candidate(7, i, f"answer {i}") for i in range(2)]
    for first in votes:
        for second in votes:
            judgments = [Judgment(7, 0, i, fmean(own)) for i, own in enumerate((first, second))]
            found = rule.pair(asked, 0, candidates, judgments)
            lead = Fraction(sum(first) - sum(second), 3)
            if lead and abs(lead) >= margin:
                assert indices(found) == ((0, 1) if lead > 0 else (1, 0)), (first, second)
            else:
                assert isinstance(found, Skipped), (first, second)
                assert found.reason == ("margin too small" if lead else "tie"), (first, second)


def test_means_that_differ_by_rounding_alone_are_a_tie() -> None:
    scores = fmean([0.1, 0.2]), fmean([0.0, 0.3])
    assert scores[0] > scores[1], "both are 0.15"
    assert reason(outcome(*scores)) == "tie"
    assert not rewards_differ(*scores)


def test_a_pairs_scores_are_the_judges_own_to_the_last_digit() -> None:
    """Three votes of 4, 4 and 5 mean 13/3, which no float32 holds."""
    found = outcome(13 / 3, 10 / 3)
    assert isinstance(found, PreferencePair)
    assert (found.chosen_score, found.rejected_score) == (13 / 3, 10 / 3)


def test_scores_that_differ_only_a_little_are_not_a_tie() -> None:
    assert indices(outcome(3.0, 3.0 + 1e-9)) == (1, 0)


def test_user_functions_decide_what_is_valid() -> None:
    assert indices(outcome(-3.0, -1.0, is_valid_reward=always)) == (1, 0)
    assert reason(outcome(3.0, 4.0, 9.0, is_valid_reward=lambda r: r > 3.5, is_valid_pair=lambda a, b: False))
    clear = outcome(3.0, 4.0, is_valid_pair=lambda preferred, unpreferred: preferred - unpreferred > 2)
    assert reason(clear) == "pair not valid"


def test_a_pairs_validity_may_be_a_0_d_tensor() -> None:
    assert indices(outcome(3.0, 4.0, is_valid_pair=lambda a, b: torch.tensor(a != b))) == (1, 0)
    assert reason(outcome(3.0, 4.0, is_valid_pair=lambda a, b: torch.tensor(False))) == "pair not valid"


def test_the_validity_function_gets_the_preferred_reward_first() -> None:
    seen = []
    outcome(1.0, 5.0, is_valid_pair=lambda *both: seen.append(both) or True)
    assert seen == [(5.0, 1.0)]


def test_a_pick_function_gets_nan_for_none_and_gives_best_and_worst() -> None:
    seen: list[torch.Tensor] = []

    def second_best(rewards: torch.Tensor) -> torch.Tensor:
        seen.append(rewards)
        return torch.tensor([2, 3])

    assert indices(outcome(5.0, None, 4.0, 1.0, pick=second_best)) == (2, 3)
    assert seen[0].shape == (4,)
    assert seen[0].isnan().tolist() == [False, True, False, False]
    assert seen[0][[0, 2, 3]].tolist() == [5.0, 4.0, 1.0]


@pytest.mark.parametrize("picked", [(0, 1), [0, 1], torch.tensor([0, 1]), (torch.tensor(0), torch.tensor(1))])
def test_picked_indices_may_be_of_any_kind(picked: Any) -> None:
    assert indices(outcome(5.0, 4.0, pick=lambda rewards: picked)) == (0, 1)


def test_a_picked_candidate_without_a_score_makes_no_pair() -> None:
    found = outcome(5.0, None, 4.0, pick=lambda rewards: (0, 1))
    assert reason(found) == "the picked candidates have no score"


@pytest.mark.parametrize(
    ("picked", "said"),
    [
        ((0, 3), "3 candidates.*0 to 2"),
        ((-1, 0), r"\(-1, 0\)"),
        (5, "5"),
        ((0, 1, 2), "two indices"),
    ],
)
def test_a_pick_function_that_gives_no_two_indices_is_refused(picked: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        outcome(1.0, 2.0, 3.0, pick=lambda rewards: picked)


@given(st.lists(st.none() | st.floats(-5, 5), min_size=1, max_size=6))
def test_best_and_worst_are_the_extremes_of_those_that_have_a_score(scores: list[float | None]) -> None:
    rewards = torch.tensor([math.nan if s is None else s for s in scores], dtype=torch.float64)
    real = [s for s in scores if s is not None]
    best, worst = best_and_worst(rewards)
    if real:
        assert scores[best] == max(real)
        assert scores[worst] == min(real)


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (is_not_negative, (0.0,), True),
        (is_not_negative, (-0.1,), False),
        (is_not_negative, (math.nan,), False),
        (rewards_differ, (2.0, 1.0), True),
        (rewards_differ, (1.0, 1.0), False),
        (rewards_differ, (torch.tensor(2.0), torch.tensor(1.0)), True),
        (rewards_differ, (torch.tensor(1.0), torch.tensor(1.0)), False),
        (always, (-9.0,), True),
    ],
)
def test_the_published_defaults(
    function: Callable[..., bool], arguments: tuple[float, ...], expected: bool
) -> None:
    assert function(*arguments) is expected


def votes(*statuses: str) -> Judgment:
    made = [Vote(i, "", None if s == "unparsed" else 1.0, s) for i, s in enumerate(statuses)]  # type: ignore[arg-type]
    return Judgment(0, 0, 0, 1.0, tuple(made))


def test_yields_count_every_vote_and_every_visit_once() -> None:
    """Two candidates: votes parsed + unparsed + forced for it, and parsed twice. 4 readings in all."""
    found = Yield(prompts=2)
    found.add_judgments([votes("parsed", "unparsed", "forced"), votes("parsed", "parsed")])
    for each in (outcome(1.0, 2.0), outcome(1.0, 1.0), outcome(2.0, 2.0), outcome(None, 2.0)):
        found.add_outcome(each)
    assert found.as_dict() == {
        "prompts": 2,
        "visits": 4,
        "candidates": 2,
        "votes": 4,
        "votes_parsed": 3,
        "votes_forced": 1,
        "votes_unparsed": 1,
        "pairs": 1,
        "skipped": {"fewer than two usable candidates (no score)": 1, "tie": 2},
    }
    assert found.votes == found.votes_parsed + found.votes_unparsed
    assert found.visits == found.pairs + sum(found.skipped.values())


def test_an_expected_vote_counts_as_a_vote_with_a_score() -> None:
    found = Yield()
    found.add_judgments([votes("expected"), votes("expected"), votes()])
    assert (found.candidates, found.votes, found.votes_parsed) == (3, 2, 2)
    assert found.votes_unparsed == found.votes_forced == 0


def test_the_yield_table_says_the_numbers_and_the_reasons() -> None:
    found = Yield(prompts=1200)
    found.add_judgments([votes("unparsed", "forced")])
    found.add_outcome(outcome(1.0, 1.0))
    table = {line.rsplit(maxsplit=1)[0].strip(): line.rsplit(maxsplit=1)[1] for line in found.lines()}
    assert table["prompts"] == "1,200"
    assert table["unparsed"] == "1"
    assert table["no pair: tie"] == "1"
    assert table["pairs"] == "0"


def test_a_yield_without_votes_does_not_speak_of_votes() -> None:
    assert not any("vote" in line or "parsed" in line for line in Yield(visits=3).lines())

"""What became of each candidate and why: told from the records, in words that a reader can check."""

from __future__ import annotations

from typing import Any

import pytest

from self_rewarding_lm_pytorch.preferences.length_control import LengthControl
from self_rewarding_lm_pytorch.preferences.pairing import PairingRule, always
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair
from self_rewarding_lm_pytorch.report.fates import UNDECIDED, Rule, fates, visit_words
from tests.helpers import prompt

BEST_AND_WORST: dict[str, Any] = {"pick": "<self_rewarding_lm_pytorch.preferences.pairing.best_and_worst>"}


def told(
    scores: list[float | None], rule: PairingRule, plan: dict[str, Any], cut: tuple[int, ...] = ()
) -> tuple[list[str], str]:
    """The real rule decides; the words are told from what it left. cut: which had no end."""
    candidates = [
        Candidate(0, 0, i, (i + 3, *range(i)), f"answer {i}", "length" if i in cut else "eos", i, "M1")
        for i in range(len(scores))
    ]
    judgments = [Judgment(0, 0, i, score) for i, score in enumerate(scores)]
    outcome = rule.pair(prompt(0), 0, candidates, judgments)
    pair = outcome if isinstance(outcome, PreferencePair) else None
    reason = "pair" if isinstance(outcome, PreferencePair) else outcome.reason
    said = Rule.of({"kind": "self_reward", "pairing": plan})
    words = fates(said, pair, candidates, dict(enumerate(judgments)))
    return words, visit_words(said, pair, reason, len(scores), 3)


def test_best_against_worst_says_who_was_first_between_or_as_good() -> None:
    words, why = told([3.0, 5.0, 1.0, 5.0, None, 1.0], PairingRule(), BEST_AND_WORST)
    assert words == [
        "not picked: between the two",
        "chosen: first of 2 with the highest score",
        "rejected: first of 2 with the lowest score",
        "not picked: as good as the chosen one, which came first",
        "took no part: it has no score",
        "not picked: as low as the rejected one, which came first",
    ]
    assert why == "Best against worst of 6 candidates, by mean vote."


def test_what_had_not_ended_took_no_part_where_the_plan_drops_it() -> None:
    rule, plan = PairingRule(needs_end=True), {**BEST_AND_WORST, "unfinished": "drop"}
    words, _ = told([5.0, 4.0, 1.0], rule, plan, cut=(0,))
    assert words[0] == "took no part: it had not ended (unfinished: drop)"
    assert words[1:] == ["chosen: the highest score", "rejected: the lowest score"]
    words, why = told([5.0, 4.0], rule, plan, cut=(0,))
    assert words[1] == "could take part, but alone"
    assert "fewer than two usable candidates (unfinished)" in why and "without an end" in why


def test_a_tie_and_a_small_margin_say_so() -> None:
    words, why = told([2.0, 2.0], PairingRule(), BEST_AND_WORST)
    assert words == ["could take part"] * 2 and "have the same score" in why
    _, why = told([2.0, 2.5], PairingRule(min_margin=1.0), {**BEST_AND_WORST, "min_margin": 1.0})
    assert why == "No pair: best and worst are less than the asked margin of 1 apart."


def test_length_control_and_own_rules_are_not_told_as_best_and_worst() -> None:
    words, why = told([5.0, 4.9, 1.0], PairingRule(length_control=LengthControl(0.2)), {"rho": 0.2})
    assert why.startswith("Length control: the shortest of the best") and "within 20 %" in why
    assert words[0] == "chosen by the rule above" and words[1] == "not picked: between the two"
    own = PairingRule(pick=lambda rewards: (1, 0))
    words, why = told([1.0, 3.0, 5.0], own, {"pick": "<mine.middle>"})
    assert why == "The plan's own rule picked the two."
    assert words == [
        "rejected by the rule above",
        "chosen by the rule above",
        "not picked: passed over by the rule",
    ]


def test_a_refused_reward_is_never_told_as_worse_than_it_is() -> None:
    rule = PairingRule(is_valid_reward=lambda reward: reward < 5)
    words, _ = told([5.0, 4.0, 1.0], rule, BEST_AND_WORST)
    assert words == ["not picked: passed over by the rule", "chosen", "rejected: the lowest score"]


def test_anchored_pairs_name_both_models_and_given_ones_that_nothing_was_sampled() -> None:
    pair = PreferencePair(0, 0, "why?", "so", "no", (1,), (2,), (3,), 0, 1)
    anchored = Rule.of({"kind": "self_reward", "temporal": {"past": "initial"}})
    assert "past model's worst, by score" in visit_words(anchored, pair, "pair", 4, 0)
    given = PreferencePair(0, 0, "why?", "so", "no", (1,), (2,), (3,))
    assert "nothing was sampled" in visit_words(Rule.of({"kind": "dpo"}), given, "pair", 0, 0)
    assert "opponent" in visit_words(Rule.of({"kind": "spin"}), given, "pair", 0, 0)


@pytest.mark.parametrize("plan", [{}, {"pairing": "none"}, {"pairing": {"rho": "x", "min_margin": None}}])
def test_a_plan_that_says_nothing_is_no_error(plan: dict[str, Any]) -> None:
    assert Rule.of(plan) == Rule()
    assert "not come to a decision" in visit_words(Rule.of(plan), None, UNDECIDED, 2, 0)
    assert fates(Rule(), None, [Candidate(0, 0, 0, (1,), "a", "eos", 1, "M1")], {}) == ["not judged"]


def test_the_default_rule_is_told_as_it_is() -> None:
    """The premise of reading `pick` by its name: that is what a resolved plan calls the default."""
    assert PairingRule().pick.__name__ == "best_and_worst" and always(1.0)

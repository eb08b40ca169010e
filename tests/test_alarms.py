"""The rules of alarms, over numbers: worked by hand, and what holds of every one of them."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.alarms import RULES, Alarm, Limit, Numbers, alarm_of, line_of, stop_text

COUNTS = st.integers(0, 10_000)


def spoken(kind: str, threshold: float | None = None, **numbers: Any) -> Alarm | None:
    limit = Limit(RULES[kind].threshold if threshold is None else threshold, "warn")
    return alarm_of(kind, Numbers(**numbers), limit, stage="02-first", unit="shard", at=3)


WORKED: list[tuple[str, dict[str, Any], float, str]] = [
    ("parse_rate", {"votes": 96, "votes_parsed": 12}, 0.125, "12 of 96 votes (12.5%) hold a score"),
    ("tie_rate", {"compared": 32, "tied": 30}, 0.9375, "at 30 of 32 visits (93.8%) all candidates"),
    (
        "score_collapse",
        {"scores": 128, "top_score": 5.0, "top_count": 126},
        126 / 128,
        "126 of 128 scores (98.4%) are 5",
    ),
    # 4 visits a pair: 400 visits may be made, 128 gave 3 pairs, so 400 give 9.375 of the 100 asked for.
    (
        "pair_yield",
        {"visits": 128, "pairs": 3, "asked": 100, "visits_per_pair": 4},
        0.09375,
        "3 pairs were found in 128 visits to prompts, which leads to 9.4% of the 100 asked for",
    ),
    ("pair_yield", {"visits": 40, "pairs": 4}, 0.1, "4 pairs were found in 40 visits to prompts (10.0%)"),
    # Recycled visits go beyond the bound; what is found then is all there will be.
    (
        "pair_yield",
        {"visits": 900, "pairs": 20, "asked": 100, "visits_per_pair": 4},
        0.2,
        "which leads to 20.0% of the 100 asked for",
    ),
    (
        "chosen_logprob",
        {"first_logprob": -1.25, "logprob": -2.75},
        1.5,
        "fell by 1.5 nats per token, from -1.250 at the first logged step to -2.750",
    ),
    (
        "length_growth",
        {"candidates": 64, "tokens": 64 * 30, "former": "01-own", "former_tokens": 12.0},
        2.5,
        "64 candidates are 30.0 tokens long on average, 2.50 times the 12.0 of 01-own",
    ),
    (
        "never_ends",
        {"candidates": 80, "cut_off": 60},
        0.75,
        "60 of 80 candidates (75.0%) ran out of tokens without writing an end of sequence",
    ),
    (
        "duplicates",
        {"grouped": 64, "repeated": 48},
        0.75,
        "48 of 64 candidates (75.0%) equal another of the same prompt",
    ),
]


@pytest.mark.parametrize(("kind", "numbers", "value", "said"), WORKED)
def test_an_alarm_says_what_was_seen_why_it_matters_and_what_to_try(
    kind: str, numbers: dict[str, Any], value: float, said: str
) -> None:
    alarm = spoken(kind, **numbers)
    assert alarm is not None
    assert alarm.value == pytest.approx(value)
    assert (alarm.kind, alarm.stage, alarm.unit, alarm.at) == (kind, "02-first", "shard", 3)
    assert alarm.threshold == RULES[kind].threshold
    assert said in alarm.text
    assert f"the threshold of {RULES[kind].threshold:g}" in alarm.text
    assert RULES[kind].advice in alarm.text and len(RULES[kind].advice) > 80
    assert line_of(alarm).startswith(f"alarm {kind} in 02-first, shard 3: ")


@pytest.mark.parametrize(("kind", "numbers", "value", "said"), WORKED)
def test_a_threshold_that_the_value_has_just_reached_is_not_passed(
    kind: str, numbers: dict[str, Any], value: float, said: str
) -> None:
    assert spoken(kind, value, **numbers) is None
    beyond = 1e-6 if RULES[kind].is_floor else -1e-6
    assert spoken(kind, value + beyond, **numbers) is not None


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_that_has_seen_nothing_is_silent_at_any_threshold(kind: str) -> None:
    for threshold in (-math.inf, 0.0, 1.0, math.inf):
        assert spoken(kind, threshold) is None


# What each rule counts, and numbers that are as bad as can be with so many of them.
WORST: dict[str, Any] = {
    "parse_rate": lambda n: {"votes": n},
    "tie_rate": lambda n: {"compared": n, "tied": n},
    "score_collapse": lambda n: {"scores": n, "top_score": 1.0, "top_count": n},
    "pair_yield": lambda n: {"visits": n, "asked": 100, "visits_per_pair": 4},
    "length_growth": lambda n: {"candidates": n, "tokens": 100 * n, "former": "a", "former_tokens": 1.0},
    "never_ends": lambda n: {"candidates": n, "cut_off": n},
    "duplicates": lambda n: {"grouped": n, "repeated": n},
}


@pytest.mark.parametrize("kind", WORST)
def test_a_rule_is_silent_until_it_has_counted_enough(kind: str) -> None:
    enough = RULES[kind].at_least
    assert enough > 1
    assert spoken(kind, **WORST[kind](enough - 1)) is None
    assert spoken(kind, **WORST[kind](enough)) is not None


@given(parsed=COUNTS, unparsed=COUNTS, threshold=st.fractions(0, 1))
def test_the_parse_rate_speaks_exactly_below_its_threshold(
    parsed: int, unparsed: int, threshold: Fraction
) -> None:
    votes = parsed + unparsed
    spoke = spoken("parse_rate", float(threshold), votes=votes, votes_parsed=parsed) is not None
    is_near = votes > 0 and math.isclose(parsed / votes, float(threshold), rel_tol=1e-9)
    expected = votes >= 64 and Fraction(parsed, votes) < threshold
    assert spoke == expected or is_near


@given(pairs=COUNTS, others=COUNTS, asked=st.integers(1, 5_000))
def test_a_search_within_its_bound_is_heading_for_as_many_pairs_as_its_rate_gives(
    pairs: int, others: int, asked: int
) -> None:
    visits = pairs + others
    numbers = Numbers(visits=visits, pairs=pairs, asked=asked, visits_per_pair=4)
    seen = RULES["pair_yield"].measure(numbers)
    if seen is None:
        assert visits == 0
        return
    assert 0 <= seen.value <= 1
    if visits <= 4 * asked:
        assert seen.value == pytest.approx(min(1.0, 4 * pairs / visits))
    done = replace(numbers, visits=max(visits, 4 * asked))
    at_end = RULES["pair_yield"].measure(done)
    assert at_end is not None and at_end.value == pytest.approx(min(1.0, pairs / asked))


@given(first=st.floats(-50, 0), now=st.floats(-50, 0))
def test_a_chosen_log_probability_that_rises_never_alarms(first: float, now: float) -> None:
    spoke = spoken("chosen_logprob", first_logprob=first, logprob=now) is not None
    assert spoke == (first - now > 1.0)


def test_a_value_that_is_no_number_any_more_is_absent_and_told_in_words() -> None:
    alarm = spoken("chosen_logprob", first_logprob=-1.0, logprob=-math.inf)
    assert alarm is not None and alarm.value is None
    assert "-inf" in alarm.text
    assert spoken("chosen_logprob", first_logprob=-1.0, logprob=math.nan) is None


@pytest.mark.parametrize("kind", RULES)
def test_defaults_lie_within_what_a_plan_may_say_and_only_warn(kind: str) -> None:
    rule = RULES[kind]
    assert rule.lowest <= rule.threshold <= rule.highest
    assert rule.then == "warn"


def test_a_stop_says_how_to_go_on() -> None:
    alarm = spoken("tie_rate", compared=40, tied=40)
    assert alarm is not None
    said = stop_text(alarm)
    assert "--set alarms.tie_rate=off" in said and "--fresh" in said and "is kept" in said


def test_rules_need_neither_torch_nor_records() -> None:
    code = "import sys, self_rewarding_lm_pytorch.alarms; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"

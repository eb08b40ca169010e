"""Which judgments are trained on: those that agree with people, of no score too many, on no prompt held
out."""

from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.prepare.judge_agreement import (
    LEAST_KEPT,
    agrees_exactly,
    agrees_in_order,
    kept_of_each,
)
from self_rewarding_lm_pytorch.prepare.judge_counts import JudgeDataCounts
from self_rewarding_lm_pytorch.prepare.judge_data import (
    JudgeDataMaker,
    JudgeExample,
    set_aside,
    thinned,
    usable_prompts,
)
from self_rewarding_lm_pytorch.records import JudgedPrompt, Judgment, Vote
from tests.helpers import byte_codec

TEMPLATE = JudgeTemplate("judge {{ prompt }} {{ response }}:")


@pytest.mark.parametrize(
    ("score", "place", "worths", "means", "agrees"),
    [
        # People: the first is best, the last worst. The judge's means: 4, 3, 1.
        (4, 0, (0, -1, -2), (4.0, 3.0, 1.0), True),  # over 3 and 1
        (3, 0, (0, -1, -2), (4.0, 3.0, 1.0), False),  # 3 is not over 3
        (2, 1, (0, -1, -2), (4.0, 3.0, 1.0), True),  # under 4, over 1
        (1, 1, (0, -1, -2), (4.0, 3.0, 1.0), False),  # not over 1
        (5, 1, (0, -1, -2), (4.0, 3.0, 1.0), False),  # not under 4
        (0, 2, (0, -1, -2), (4.0, 3.0, 1.0), True),
        (5, 1, (0, 0, -2), (4.0, 3.0, 1.0), True),  # a tie with the first asks nothing of it
        (2, 0, (0, -1, -2), (4.0, None, 1.0), True),  # what has no score is not compared
        (5, 0, (0, -1, -2), (4.0, None, None), None),
        (5, 0, (1, 1), (4.0, 1.0), None),
        (0.1 + 0.2, 0, (1, 0), (0.3, 0.3), False),  # over 0.3 by rounding alone
    ],
)
def test_a_vote_agrees_in_order_when_it_stands_where_people_put_its_response(
    score: float,
    place: int,
    worths: tuple[float, ...],
    means: tuple[float | None, ...],
    agrees: bool | None,
) -> None:
    assert agrees_in_order(score, place, worths, means) is agrees


@given(worths=st.lists(st.integers(0, 3), min_size=2, max_size=5), score=st.integers(0, 5))
def test_a_judge_that_scores_as_people_do_always_agrees_and_its_mirror_never(
    worths: list[int], score: int
) -> None:
    means: list[float | None] = [float(worth) for worth in worths]
    mirrored: list[float | None] = [-float(worth) for worth in worths]
    expected = True if len(set(worths)) > 1 else None
    for place, worth in enumerate(worths):
        assert agrees_in_order(worth, place, worths, means) is expected
        assert agrees_in_order(-worth, place, worths, mirrored) is (None if expected is None else False)


@pytest.mark.parametrize(
    ("score", "rating", "same"),
    [
        (4, 4, True),
        (3.5, 4, True),
        (2.5, 3, True),
        (2.4999999999999996, 3, True),
        (2.49, 3, False),
        (4, 3.5, True),
        (4, 5, False),
    ],
)
def test_exact_agreement_rounds_halves_up(score: float, rating: float, same: bool) -> None:
    assert agrees_exactly(score, rating) is same


@pytest.mark.parametrize(
    ("counts", "share", "kept"),
    [
        # 4 may be 35 % of what stays: 10 + 10 + 10 + 16 = 46 with 16 / 46 = 0.348; 17 / 47 = 0.362.
        ({1: 10, 2: 10, 3: 10, 4: 60}, 0.35, {1: 10, 2: 10, 3: 10, 4: 16}),
        ({1: 10, 2: 10, 3: 10}, 0.35, {1: 10, 2: 10, 3: 10}),
        ({1: 10, 2: 90}, 1.0, {1: 10, 2: 90}),
        ({4: 50}, 0.35, {4: 50}),  # one score only: nothing to balance
        ({4: 100, 1: 1}, 0.35, {4: 50, 1: 1}),  # 0.35 cannot be met; half of 101 stays
        ({4: 30, 3: 20}, 0.5, {4: 20, 3: 20}),
    ],
)
def test_scores_too_common_are_thinned_to_their_share(
    counts: dict[int, int], share: float, kept: dict[int, int]
) -> None:
    # The first case keeps 46 of 90, over half; with 100 of score 4 the bound would come first.
    assert kept_of_each(Counter(counts), share) == kept


@given(
    counts=st.dictionaries(st.integers(0, 5), st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.05, 1.0),
)
def test_thinning_keeps_the_most_that_meets_the_share_or_half_of_all(
    counts: dict[int, int], share: float
) -> None:
    kept = kept_of_each(Counter(counts), share)
    total = sum(kept.values())
    assert all(0 < kept[score] <= count for score, count in counts.items())
    assert total >= LEAST_KEPT * sum(counts.values())
    if len(counts) == 1:
        assert kept == counts
        return
    caps = [{score: min(count, cap) for score, count in counts.items()} for cap in range(1, 41)]
    meeting = [c for c in caps if max(c.values()) <= share * sum(c.values()) + 1e-9]
    enough = [c for c in meeting if sum(c.values()) >= LEAST_KEPT * sum(counts.values())]
    if enough:
        assert total == max(sum(c.values()) for c in enough)
    else:
        assert total == min(t for c in caps if (t := sum(c.values())) >= LEAST_KEPT * sum(counts.values()))


def judged(index: int, prompt: str, *worths: float, is_rated: bool = True) -> JudgedPrompt:
    return JudgedPrompt(index, prompt, tuple(f"r{i}" for i in range(len(worths))), worths, is_rated)


@given(texts=st.lists(st.sampled_from(["a", "b", "c", "d", "A ", " a", "e f", "e  F"]), max_size=30))
def test_equal_prompts_are_never_on_both_sides(texts: list[str]) -> None:
    entries = [judged(index, text, 1, 2) for index, text in enumerate(texts)]
    kept, held_out = set_aside(entries, 0.25)
    assert sorted([*kept, *held_out], key=lambda entry: entry.index) == entries
    sides = [{" ".join(entry.prompt.split()).lower() for entry in side} for side in (kept, held_out)]
    assert not sides[0] & sides[1]
    if len(sides[0] | sides[1]) > 1:
        assert sides[0]
        assert sides[1]


def test_about_a_quarter_is_held_out_and_nothing_where_nothing_is_asked() -> None:
    entries = [judged(index, f"q{index}", 1, 2) for index in range(1000)]
    _, held_out = set_aside(entries, 0.25)
    assert abs(len(held_out) - 250) < 4 * (1000 * 0.25 * 0.75) ** 0.5  # four standard deviations
    assert set_aside(entries, 0) == (entries, [])


def test_a_prompt_stays_on_its_side_whatever_else_is_in_the_set() -> None:
    entries = [judged(index, f"q{index}", 1, 2) for index in range(200)]
    held_out = {entry.prompt for entry in set_aside(entries, 0.25)[1]}
    for part in (entries[::-1], entries[:50], entries[100:]):
        assert {entry.prompt for entry in set_aside(part, 0.25)[1]} == held_out & {e.prompt for e in part}


def test_prompts_that_cannot_be_compared_are_counted_before_anything_is_judged() -> None:
    entries = [judged(0, "a", 1, 2), judged(1, "b", 3), judged(2, "c", 0, -1, is_rated=False)]
    for agree, usable, dropped in (
        ("order", [0, 2], {"prompts without an order": 1}),
        ("exact", [0, 1], {"prompts without ratings": 1}),
    ):
        counts = JudgeDataCounts()
        found = usable_prompts(entries, agree, counts)  # type: ignore[arg-type]
        assert [entry.index for entry in found] == usable
        assert dict(counts.dropped) == dropped


def vote(index: int, score: float | None, **other: Any) -> Vote:
    status = "unparsed" if score is None else "parsed"
    values = {"text": f"because {index}\nScore: {score}\n", "status": status, "finish_reason": "stop"}
    values |= other
    return Vote(index, score=score, **values)


def judgment(place: int, *votes: Vote) -> Judgment:
    scores = [each.score for each in votes if each.score is not None]
    return Judgment(0, 0, place, fmean(scores) if scores else None, votes)


def maker(counts: JudgeDataCounts, **changes: Any) -> JudgeDataMaker:
    settings: dict[str, Any] = {"agree": "order", "votes_per_response": 1, "max_tokens": None, **changes}
    return JudgeDataMaker(TEMPLATE, byte_codec(), counts=counts, **settings)


def test_the_first_vote_that_agrees_is_taught_behind_the_filled_judge_prompt() -> None:
    counts = JudgeDataCounts()
    better = judgment(0, vote(0, None), vote(1, 1), vote(2, 5), vote(3, 4))  # mean 10 / 3
    worse = judgment(1, vote(0, 2), vote(1, 3, finish_reason="length"), vote(2, 4, status="forced", text=""))
    found = maker(counts).examples(judged(7, "why?", 4, 2), [better, worse])
    assert found == [
        JudgeExample("judge why? r0:", "because 2\nScore: 5", 5, 7, 0, 2),
        JudgeExample("judge why? r1:", "because 0\nScore: 2", 2, 7, 1, 0),
    ]
    assert dict(counts.dropped) == {
        "votes without a score": 1,
        "votes that disagree with people": 1,  # 1 is not over the mean 3
        "further votes on a response": 1,
        "votes cut off by their budget": 1,
    }
    assert (counts.judged, counts.responses, counts.votes, counts.votes_parsed) == (1, 2, 6, 5)


def test_more_votes_of_a_response_are_kept_where_asked_for() -> None:
    better, worse = judgment(0, vote(0, 5), vote(1, 4)), judgment(1, vote(0, 1), vote(1, 0))
    found = maker(JudgeDataCounts(), votes_per_response=2).examples(judged(0, "p", 1, 0), [better, worse])
    assert [(example.response_index, example.vote) for example in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_exact_agreement_looks_at_the_rating_alone() -> None:
    counts = JudgeDataCounts()
    found = maker(counts, agree="exact").examples(judged(0, "p", 3), [judgment(0, vote(0, 4), vote(1, 3))])
    assert [example.score for example in found] == [3]
    assert counts.dropped["votes that disagree with people"] == 1


def test_what_does_not_fit_the_context_is_dropped_and_counted() -> None:
    counts = JudgeDataCounts()
    length = len("judge p r0:") + len("because 0\nScore: 5") + 1  # the end-of-sequence token
    over = Judgment(0, 0, 1, None, (), "judge prompt of 900 tokens is over its limit of 64")
    both = [judgment(0, vote(0, 5)), judgment(1, vote(0, 1))]
    assert len(maker(counts, max_tokens=length).examples(judged(0, "p", 1, 0), both)) == 2
    assert maker(counts, max_tokens=length - 1).examples(judged(0, "p", 1, 0), both) == []
    assert counts.dropped["votes too long to train on"] == 2
    assert maker(counts).examples(judged(0, "p", 1, 0), [both[0], over]) == []
    assert counts.dropped["responses over the judge's context"] == 1
    assert counts.dropped["votes with nothing to compare"] == 1


@given(data=st.data())
def test_every_vote_is_an_example_or_counted_with_its_reason(data: st.DataObject) -> None:
    counts = JudgeDataCounts()
    made = maker(counts, agree=data.draw(st.sampled_from(["order", "exact"])))
    score = st.one_of(st.none(), st.integers(0, 5))
    found: list[JudgeExample] = []
    for index in range(data.draw(st.integers(1, 4))):
        worths = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
        votes = [[vote(k, data.draw(score)) for k in range(2)] for _ in worths]
        judgments = [judgment(place, *own) for place, own in enumerate(votes)]
        found += made.examples(judged(index, "p", *worths), judgments)
    kept = thinned(found, 0.5, seed=(0,), counts=counts)
    assert counts.votes == len(kept) + counts.dropped.total()
    assert counts.examples == len(kept) == counts.scores.total()
    assert [example for example in found if example in set(kept)] == kept
    assert JudgeDataCounts.from_dict(counts.as_dict()) == counts


def test_which_examples_are_thinned_is_decided_by_seed_and_place_not_by_order() -> None:
    examples = [JudgeExample("p", "r", 4 if i % 5 else i % 4, i, 0, 0) for i in range(60)]
    kept = thinned(examples, 0.5, seed=(0, "a"), counts=JudgeDataCounts())
    assert len(kept) < len(examples)
    backwards = thinned(examples[::-1], 0.5, seed=(0, "a"), counts=JudgeDataCounts())
    assert backwards == kept[::-1]
    assert thinned(examples, 0.5, seed=(1, "a"), counts=JudgeDataCounts()) != kept

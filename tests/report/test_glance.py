"""The first view: its sentence says what the numbers say and no more; its cards show what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.files import write_text
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote
from self_rewarding_lm_pytorch.report import build_report, glance
from self_rewarding_lm_pytorch.report.build import scores_of
from self_rewarding_lm_pytorch.report.lengths import lengths_of
from self_rewarding_lm_pytorch.report.run_files import Stage
from self_rewarding_lm_pytorch.report.story import (
    judge_words,
    length_words,
    quality_words,
    scores_words,
    story,
)
from tests.report.test_report import Page

ROWS = [
    {"model": "M1", "true_score_mean": 3.2, "true_score_perfect": 0.11, "mean_response_tokens": 10.5},
    {"model": "M2", "true_score_mean": 4.7, "true_score_perfect": 0.77, "mean_response_tokens": 8.2},
    {"model": "M3", "true_score_mean": 4.9, "true_score_perfect": 0.96, "mean_response_tokens": 8.0},
]
YIELD = {"visits": 600, "pairs": 584, "skipped": {"tie": 16}}
STAGES = [
    {"name": "M1", "kind": "sft", "num_pairs": 0, "train_seconds": 85.0, "yield": {"visits": 0, "pairs": 0}},
    {"name": "M2", "num_pairs": 584, "judge_seconds": 4.0, "yield": YIELD},
    {"name": "M3", "num_pairs": 368, "yield": {**YIELD, "pairs": 368, "skipped": {"tie": 232}}},
]


def card(model: str, value: float | None, ends: tuple[float, float] | None = None) -> dict[str, Any]:
    intervals = {"pairwise_accuracy": list(ends)} if ends else {}
    return {"model": model, "pairwise_accuracy": value, "intervals": intervals}


def test_the_sentence_of_a_run_that_went_well() -> None:
    cards = [card("start", None), card("M1", 0.97, (0.95, 0.99)), card("M3", 0.98, (0.96, 1.0))]
    assert story(ROWS, cards, STAGES, [], {}, {}) == (
        "The share of perfect answers rose from 11 % to 96 % over two rounds; "
        "the judge stayed as good (pairwise accuracy 97 % to 98 %); "
        "answers became shorter (10.5 to 8.0 tokens)."
    )


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert story([], [], [], [], {}, {}) == ""
    assert story(ROWS[:1], [card("M1", 0.9)], STAGES, [], {}, {}) == ""


@pytest.mark.parametrize(
    ("last", "said"),
    [(0.16, "hardly moved (11 % to 16 %)"), (0.40, "rose from 11 % to 40 %"), (0.0, "fell from 11 % to 0 %")],
)
def test_a_change_within_two_standard_errors_is_no_rise(last: float, said: str) -> None:
    """By hand: of 100 answers each, 2 sqrt(.11 .89/100 + .16 .84/100) = 0.096 > 0.05; for 0: 0.063 < 0.11."""
    rows = [{"model": "a", "true_score_perfect": 0.11}, {"model": "b", "true_score_perfect": last}]
    truths = {"a": [5.0] * 11 + [1.0] * 89, "b": [5.0] * round(100 * last) + [1.0] * round(100 - 100 * last)}
    assert said in quality_words(rows, truths, 1)


def test_a_peak_in_between_is_told() -> None:
    rows = [{"model": f"M{n}", "true_score_perfect": value} for n, value in enumerate((0.1, 0.6, 0.4), 1)]
    said = quality_words(rows, {}, 2)
    assert said.endswith("rose from 10 % to 40 % over two rounds, with 60 % at M2 in between")
    assert quality_words(rows, {}, 5).endswith("from M1 to M3, with 60 % at M2 in between")


def test_the_judge_is_worse_only_where_the_intervals_say_so() -> None:
    worse = [card("a", 0.9, (0.88, 0.92)), card("b", 0.7, (0.66, 0.74))]
    assert judge_words(worse) == "the judge became worse (pairwise accuracy 90 % to 70 %)"
    unsure = [card("a", 0.9, (0.6, 1.0)), card("b", 0.7, (0.5, 0.9))]
    assert judge_words(unsure).startswith("the judge stayed as good")
    assert judge_words([card("a", 0.9), card("b", 0.95)]).startswith("the judge became better")


def test_without_an_evaluation_the_judges_own_scores_are_told_as_such() -> None:
    scores: dict[str, list[float | None]] = {"02-a": [1.0, 2.0, None] * 50, "03-b": [4.0, 5.0] * 50}
    assert scores_words(scores) == "the judge's mean score rose from 1.50 to 4.50 between 02-a and 03-b"
    tile = glance.quality([], scores)
    assert tile is not None and (tile.before, tile.now) == ("1.50", "4.50")
    assert "no independent measure" in tile.note
    assert scores_words({"02-a": [1.0, 2.0]}) == "the 2 judged answers of 02-a scored 1.50 on average"


def stage(name: str, sizes: list[int], ends: int) -> Stage:
    candidates = [
        Candidate(i, 0, 0, tuple(range(size)), "x", "eos" if i < ends else "length", i, name)
        for i, size in enumerate(sizes)
    ]
    again = [Candidate(0, 1, 0, candidates[0].ids, "x", "eos", 0, name)]  # taken up by a further visit
    pair = PreferencePair(0, 0, "q", "a", "b", (1,), (1, 2, 3), (1,), 0, 1)
    return Stage(name, [*candidates, *again], [], [pair], [])


def test_lengths_count_each_sample_once_and_the_share_that_ended() -> None:
    (row,) = lengths_of([stage("02-a", [2, 4, 6, 8], ends=3), Stage("01-sft", [], [], [], [])][:1])
    assert (row.mean, row.median, row.highest, row.ended) == (5.0, 5.0, 8, 0.75)
    assert (row.chosen, row.rejected) == (3.0, 1.0)
    assert lengths_of([Stage("01-sft", [], [], [], [])]) == []
    both = lengths_of([stage("02-a", [10] * 4, 4), stage("03-b", [12] * 4, 2)])
    assert length_words([], both) == "answers became longer (10.0 to 12.0 tokens)"
    tile = glance.lengths([], both)
    assert tile is not None and tile.note == "100 % → 50 % of the samples ended by themselves"


def test_spin_answers_are_the_opponents_own_and_not_the_data_sets() -> None:
    """The story's numbers are the tile's."""
    pair = PreferencePair(0, 0, "q", "a", "b", (1,), tuple(range(37)), tuple(range(8)))
    spin = Stage("01-spin", [], [], [pair], [], {"kind": "spin", "opponent": {"max_new_tokens": 64}})
    given = Stage("02-dpo", [], [], [pair], [], {"kind": "dpo"})
    both = lengths_of([spin, given, stage("03-b", [12] * 4, 4)])
    tile = glance.lengths([], both)
    assert tile and [(bar.label, bar.value) for bar in tile.bars] == [("01-spin", "8.0"), ("03-b", "12.0")]
    assert length_words([], both) == "answers became longer (8.0 to 12.0 tokens)"


@pytest.mark.parametrize(("budget", "ends", "is_told"), [(1, 0, False), (16, 0, True), (1, 4, True)])
def test_other_budgets_that_cut_answers_are_no_change_of_length(
    budget: int, ends: int, is_told: bool
) -> None:
    first, last = stage("01-a", [16] * 4, ends), stage("02-b", [1] * 4, ends)
    first.plan, last.plan = ({"candidates": {"max_new_tokens": limit}} for limit in (16, budget))
    both = lengths_of([first, last])
    tile = glance.lengths([], both)
    assert tile and tile.now == "1.0"
    assert bool(length_words([], both)) == bool(tile.before) == is_told
    assert ("token limits differ" in tile.note) != is_told


def test_the_cards_show_values_their_course_and_what_was_lost() -> None:
    quality, pairs, time = glance.quality(ROWS, {}), glance.yields(STAGES), glance.time_spent(STAGES)
    assert quality and pairs and time
    assert (quality.title, quality.before, quality.now) == ("Perfect answers", "11 %", "96 %")
    assert [bar.shares for bar in quality.bars] == [(0.11,), (0.77,), (0.96,)]
    assert quality.note == "True score 3.20 → 4.90"
    assert pairs.now == "952" and [bar.value for bar in pairs.bars] == ["584 of 600", "368 of 600"]
    assert pairs.note == "Most visits without a pair: tie (248)"
    assert len(time.bars) == 2, "of M3 no seconds are known"
    assert time.now == "1 min 29 s" and time.bars[1].shares == (0.0, 4 / 85, 0.0)


def test_the_judges_card_falls_back_to_what_is_there() -> None:
    by_cards = glance.judge([card("start", None), card("M1", 0.8)], [], [])
    by_rows = glance.judge([], [{"model": "M1", "judge_exact": 0.5}], [])
    by_votes = glance.judge([], [], [{"name": "a", "yield": {"votes": 8, "votes_parsed": 6}}])
    assert by_cards and by_rows and by_votes and glance.judge([], [], []) is None
    assert [each.now for each in (by_cards, by_rows, by_votes)] == ["80 %", "50 %", "75 %"]
    assert "No report card" in by_votes.note


def test_many_models_are_few_bars_the_first_and_the_last_among_them() -> None:
    tile = glance.quality([{"model": f"M{n}", "accuracy": n / 40} for n in range(1, 31)], {})
    assert tile and len(tile.bars) == glance.MOST_BARS
    assert (tile.bars[0].label, tile.bars[-1].label) == ("M1", "M30")


def test_counts_that_are_none_are_as_absent() -> None:
    odd = [{"name": "a", "num_pairs": "x", "yield": {"visits": "many", "pairs": None, "skipped": ["tie"]}}]
    assert glance.yields(odd) is None and glance.counts_of(odd[0]) == {"skipped": {}}
    assert glance.counts_of({"yield": 3}) == {}


def test_scores_of_different_judges_are_never_compared() -> None:
    """A reward function's points and a judge's are of different scales."""

    def judged(name: str, score: float, **plan: Any) -> Stage:
        judgments = [Judgment(i, 0, 0, score + i / 8) for i in range(3)]
        return Stage(name, [], judgments, [], [], {"name": name, **plan})

    own, reward = {"judge": {"votes": 3}}, {"reward": "length.py:words"}
    stages = [judged("01-a", 2.0, **own), judged("02-b", 130.0, **reward), judged("03-c", 4.0, **own)]
    assert [list(each) for each in scores_of(stages)] == [["02-b"], ["01-a", "03-c"]]
    unknown = [Stage(each.name, [], each.judgments, [], []) for each in stages]
    assert [list(each) for each in scores_of(unknown)] == [["01-a"], ["02-b"], ["03-c"]]


def compared(folder: Path, share: float) -> None:
    """Four visits, in each of which the first of two answers is preferred with this probability."""
    store = ShardStore(folder)
    pairs = [(n, index) for n in range(4) for index in (0, 1)]
    store.write(
        Candidate, 0, [Candidate(n, 0, index, (1, 2), "x", "eos", index, "M") for n, index in pairs], {}
    )
    judgments = []
    for n, index in pairs:
        own = share if index == 0 else 1 - share
        texts = [f"shown {place}, against candidate_index {1 - index}" for place in ("first", "second")]
        votes = tuple(Vote(place, text, own, "expected") for place, text in enumerate(texts))
        judgments.append(Judgment(n, 0, index, own, votes))
    judgments[-1] = Judgment(3, 0, 1, None, ())  # nothing was left to compare it with
    store.write(Judgment, 0, judgments, {})


def scored(folder: Path, score: float) -> None:
    store = ShardStore(folder)
    store.write(Candidate, 0, [Candidate(n, 0, 0, (1, 2), "x", "eos", 1, "M") for n in range(4)], {})
    votes = (Vote(0, "Score: 4", score, "parsed"),)
    store.write(Judgment, 0, [Judgment(n, 0, 0, score + n / 8, votes) for n in range(4)], {})


PAIRWISE = "stages: [{name: a, judge: {mode: pairwise}}, {name: b, judge: {mode: pairwise}}]"


@pytest.mark.parametrize("plan", [PAIRWISE, "", "stages: [{name: a, judge: own.py:Mine}, {name: b}]"])
def test_the_mean_of_comparisons_is_told_nowhere_as_a_course(tmp_path: Path, plan: str) -> None:
    """It is one half by construction; without a plan that says so the votes do."""
    write_text(tmp_path / "plan.yaml", plan)
    compared(tmp_path / "stages" / "01-a", 0.9)
    compared(tmp_path / "stages" / "02-b", 0.7)
    page = Page(build_report(tmp_path))
    assert "mean score" not in page.text and "judged answers" not in page.text
    assert "Answers kept their length (2.0 tokens)." in page.text, "what else is known is told"
    assert "Preferences" in page.text and "one half by construction" in page.text
    assert "1 without a preference" in page.text and "How the judge's scores spread" not in page.text
    assert page.source.count("preference: 7 values") == 2 and "score: 7 values" not in page.source


def test_stages_that_score_are_told_beside_those_that_compare(tmp_path: Path) -> None:
    one = "judge: {votes: 1}"
    plan = f"stages: [{{name: a, {one}}}, {{name: b, {one}}}, {{name: c, judge: {{mode: pairwise}}}}]"
    write_text(tmp_path / "plan.yaml", plan)
    scored(tmp_path / "stages" / "01-a", 1.0)
    scored(tmp_path / "stages" / "02-b", 4.0)
    compared(tmp_path / "stages" / "03-c", 0.9)
    page = Page(build_report(tmp_path))
    assert "The judge's mean score rose from 1.19 to 4.19 between 01-a and 02-b; " in page.text
    assert "How the judge's scores spread" in page.text and "Preferences" in page.text
    assert page.source.count("score: 4 values") == 2 and page.source.count("preference: 7 values") == 1

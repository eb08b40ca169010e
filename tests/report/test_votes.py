"""Votes in words: comparisons are told as such, and no internal name is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Vote
from self_rewarding_lm_pytorch.report import build_report
from self_rewarding_lm_pytorch.report.listing import score
from tests.report.test_report import Page, visits

FIRST, SECOND = (f"shown {place}, against candidate_index 0" for place in ("first", "second"))


def shown(folder: Path, *votes: Vote) -> list[tuple[Any, ...]]:
    """Candidate 1's votes on the page, with texts in place of numbers."""
    store = ShardStore(folder / "stages" / "01-own")
    made = [Candidate(0, 0, index, (1,), f"answer {index}", "eos", 1, "M1") for index in range(2)]
    store.write(Candidate, 0, made, {})
    store.write(Judgment, 0, [Judgment(0, 0, 1, votes[0].score, votes)], {})
    page = Page(build_report(folder))
    (row,) = visits(page)
    texts = page.data["texts"]
    return [
        (texts[text], value, *(texts[each] if isinstance(each, int) else each for each in more))
        for text, value, *more in row["cards"][1][6]
    ]


def test_a_comparison_names_the_other_card_and_bears_no_note(tmp_path: Path) -> None:
    read = [
        Vote(n, text, 0.25, "expected", probabilities=(0.25, 0.75)) for n, text in enumerate((FIRST, SECOND))
    ]
    assert shown(tmp_path, *read) == [
        ("shown first, against No. 1", 0.25),
        ("shown second, against No. 1", 0.25),
    ]


def test_a_comparison_without_a_verdict_says_why(tmp_path: Path) -> None:
    lost = [Vote(n, text, None, "unparsed", "no room") for n, text in enumerate((FIRST, SECOND))]
    assert shown(tmp_path, *lost)[0] == ("shown first, against No. 1", None, "u", "no room")


def test_a_judge_that_writes_like_a_comparison_is_quoted_as_it_wrote(tmp_path: Path) -> None:
    votes = Vote(0, FIRST, 3.0, "parsed"), Vote(1, "Score: 3", 3.0, "parsed")
    assert shown(tmp_path, *votes)[0] == (FIRST, 3)


@pytest.mark.parametrize("name", ["no_score", "out_of_range", "ambiguous", "not_finite", "timeout"])
def test_a_reason_is_told_in_words(tmp_path: Path, name: str) -> None:
    ((_, _, _, why),) = shown(tmp_path, Vote(0, "hm", None, "unparsed", name))
    assert why and name not in why and "_" not in why


@pytest.mark.parametrize(
    ("value", "kept"), [(2.0382, 2.0382), (1 / 3, 0.333333), (4.0, 4), (1016.12349, 1016.123), (-7e-9, -7e-9)]
)
def test_scores_keep_the_digits_that_tell_them_apart(value: float, kept: float) -> None:
    assert score(value) == kept

"""Alarms on the page and at a run's end: what they say; hostile text stays text, broken lines do no harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data import files
from self_rewarding_lm_pytorch.report import build_report
from self_rewarding_lm_pytorch.report.alarms import alarm_lines
from tests.report.test_report import HOSTILE, Page

LINE = {
    "kind": "tie_rate",
    "stage": "02-first",
    "unit": "shard",
    "at": 3,
    "value": 0.9375,
    "threshold": 0.8,
    "then": "warn",
    "text": "at 30 of 32 visits all candidates have the same score. Take more votes.",
}
STOP = {**LINE, "kind": "not_finite", "unit": "step", "value": None, "threshold": None, "then": "stop"}


def run(folder: Path, *lines: Any, plan: str = "model: m\nalarms:\n  tie_rate: 1\n") -> Path:
    files.write_text(folder / "plan.yaml", plan)
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    if lines:
        files.write_text(folder / "alarms.jsonl", text)
    return folder


def test_the_page_shows_each_alarm_with_its_stage_value_and_threshold_near_the_top(tmp_path: Path) -> None:
    page = Page(build_report(run(tmp_path, LINE, STOP)))
    for shown in ("tie_rate", "02-first , shard 3", "0.9375", "0.8", "warn", LINE["text"], "step 3", "stop"):
        assert shown in page.text, shown
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert ids[0] == "alarms"
    assert ("a", {"class": "status bad", "href": "#alarms"}) in page.tags and "2 alarms" in page.text


def test_a_run_without_an_alarm_says_so_and_one_that_was_not_watched_says_that(tmp_path: Path) -> None:
    assert "No alarm." in Page(build_report(run(tmp_path / "watched"))).text
    old = Page(build_report(run(tmp_path / "old", plan="model: m\n"))).text
    assert "No alarms: nothing was watched." in old
    assert alarm_lines(tmp_path / "old") == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(tmp_path: Path, text: str) -> None:
    line = {**dict.fromkeys(("kind", "stage", "unit", "then", "text"), text), "at": 1}
    page = Page(build_report(run(tmp_path, line)))
    assert [tag for tag, _ in page.tags].count("script") == 3, "the list's data and the page's own two"
    assert not [tag for tag, attributes in page.tags if tag == "img" or "onerror" in attributes]
    assert "\u202e" not in page.source


@pytest.mark.parametrize("line", ['{"kind": "tie', "[1]", "{}", '{"kind": 3, "at": "x", "value": NaN}'])
def test_lines_that_are_not_as_they_should_be_do_no_harm(tmp_path: Path, line: str) -> None:
    page = Page(build_report(run(tmp_path, line, LINE)))
    assert LINE["text"] in page.text
    assert LINE["text"] in alarm_lines(tmp_path)[-1]


def test_the_terminal_says_how_many_and_each_of_them(tmp_path: Path) -> None:
    assert alarm_lines(run(tmp_path, LINE, STOP)) == [
        "2 alarms:",
        f"  tie_rate in 02-first, shard 3 (warn): {LINE['text']}",
        f"  not_finite in 02-first, step 3 (stop): {LINE['text']}",
    ]
    assert alarm_lines(run(tmp_path, LINE))[0] == "1 alarm:"

"""The page's section on the judge: what it says; hostile names stay text, broken rows do no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data import files
from self_rewarding_lm_pytorch.report import build_report
from self_rewarding_lm_pytorch.report.cards import cards_of
from tests.report.test_report import HOSTILE, Page


def row(model: str, accuracy: float | None, **more: Any) -> dict[str, Any]:
    intervals = {} if accuracy is None else {"pairwise_accuracy": [accuracy - 0.1, accuracy + 0.05]}
    values = {"pairwise_accuracy": accuracy, "spearman": 0.25, "parse_rate": 0.875, "ece": 0.5}
    return {"model": model, "num_prompts": 9, "num_responses": 18, **values, "intervals": intervals, **more}


def page(folder: Path, judge: Any) -> Page:
    summary = {"schema": 1, "status": "completed", "stages": [], "evaluation": []}
    files.write_json(folder / "summary.json", summary | ({} if judge is None else {"judge": judge}))
    return Page(build_report(folder))


def test_a_table_shows_each_models_values_with_their_intervals(tmp_path: Path) -> None:
    shown = page(tmp_path, [row("start", 0.5), row("M1", 0.8)])
    assert "50.0 % 40.0 % to 55.0 %" in shown.text
    assert "80.0 % 70.0 % to 85.0 %" in shown.text
    assert "pairwise accuracy, ties left out" in shown.text and "calibration error, points" in shown.text
    assert ("a", {"href": "#judge"}) in shown.tags
    labels = [str(attributes["aria-label"]) for tag, attributes in shown.tags if "aria-label" in attributes]
    assert "pairwise accuracy, ties left out: start 50.0 %, M1 80.0 %" in labels


def test_without_cards_the_page_has_no_such_section(tmp_path: Path) -> None:
    assert "judge" not in [attributes.get("id") for _, attributes in page(tmp_path, None).tags]
    assert "#judge" not in Page(tmp_path / "report.html").source


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_models_name_stays_text(tmp_path: Path, name: str) -> None:
    shown = page(tmp_path, [row(name, 0.5), row(name, 0.6)])
    assert [tag for tag, _ in shown.tags].count("script") == 3, "the list's data and the page's own two"
    assert not [tag for tag, attributes in shown.tags if tag == "img" or "onerror" in attributes]
    assert "alert" not in "".join(shown.raw["script"])


@pytest.mark.parametrize(
    "judge",
    [
        "no list",
        [None, 3, "row"],
        [{}],
        [row("start", None)],
        [row("start", 0.5, intervals="none")],
        [row("start", 0.5, intervals={"pairwise_accuracy": [None, 1]})],
        [row("start", float("nan"), ece="high")],
    ],
)
def test_rows_that_are_not_as_they_should_be_are_as_absent(tmp_path: Path, judge: Any) -> None:
    page(tmp_path, judge)


def test_what_no_model_has_is_not_shown_and_what_one_lacks_is_a_dash() -> None:
    cards = cards_of({"judge": [row("start", None), row("M1", 0.8)]})
    cells = {line.name: [value for value, _ in line.cells] for line in cards.lines}
    assert cells["pairwise_accuracy"] == ["–", "80.0 %"]
    assert "brier" not in cells
    assert "pairwise accuracy, ties left out" not in [title for title, _ in cards.figures], (
        "one value is no course"
    )
    assert not cards_of({})


def test_many_models_are_drawn_with_fewer_names() -> None:
    cards = cards_of({"judge": [row(f"a-stage-named-{n}", n / 40) for n in range(1, 31)]})
    picture = str(dict(cards.figures)["pairwise accuracy, ties left out"])
    assert picture.count("a-stage-…") == 6
    assert picture.count("<circle") == 30

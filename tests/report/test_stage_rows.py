"""Which stages have finished and which pairs came from prompts: a run that goes on is told as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data import files
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import Candidate
from self_rewarding_lm_pytorch.report import build_report, glance
from self_rewarding_lm_pytorch.report.run_files import Run
from self_rewarding_lm_pytorch.report.stage_rows import stage_rows
from tests.report.test_report import Page, write_stage

COUNTS = {"prompts": 4, "visits": 4, "candidates": 12, "pairs": 3, "skipped": {"tie": 1}}
FIRST = {
    "name": "first",
    "kind": "self_reward",
    "num_pairs": 3,
    "yield": COUNTS,
    "generate_seconds": 61.0,
    "train_seconds": 9.0,
}
GIVEN = {"name": "given", "kind": "dpo", "num_pairs": 6, "yield": {"visits": 0}, "train_seconds": 0.5}


def under_way(folder: Path) -> Path:
    """A run without a summary: its first stage is done, the second has sampled for two of its prompts."""
    write_stage(folder / "stages" / "01-first", ["a", "b", "c", "d"], tie_at=3)
    made = [Candidate(n // 2, 0, n % 2, (1,), "an answer", "eos", 1, "M1") for n in range(4)]
    ShardStore(folder / "stages" / "02-second").write(Candidate, 0, made, {})
    entries = [
        {
            "name": "first",
            "kind": "self_reward",
            "state": "done",
            "outcome": FIRST,
            "evaluation": {"model": "M1"},
        },
        {"name": "second", "kind": "online", "state": "running"},
        {"name": "third", "kind": "online", "state": "pending"},
    ]
    files.write_json(folder / "manifest.json", {"schema": 1, "status": "running", "stages": entries})
    return folder


def rows(folder: Path, *, summary: dict[str, Any]) -> list[dict[str, Any]]:
    run = Run(folder)
    return stage_rows(summary, run.json("manifest.json"), run.stages())


def test_a_stage_that_is_done_has_its_outcome_before_there_is_a_summary(tmp_path: Path) -> None:
    first, second = rows(under_way(tmp_path), summary={})
    assert first == FIRST
    assert (second["name"], second["kind"], second["is_open"]) == ("second", "online, not finished", True)
    assert [row["name"] for row in rows(tmp_path, summary={"stages": [FIRST]})] == ["first", "second"]


def test_the_page_says_how_many_stages_have_finished_and_which_has_not(tmp_path: Path) -> None:
    page = Page(build_report(under_way(tmp_path)))
    assert (
        "So far 1 stage has finished." in page.text and "the run still goes on, or was stopped" in page.text
    )
    assert "first self_reward 3" in page.text and "second online, not finished" in page.text
    assert page.text.count("not finished") == 1
    assert "1 min 01 s" in page.text and "No evaluation is stored" not in page.text


def test_an_open_stages_visits_are_counted_and_its_unknown_time_is_left_out(tmp_path: Path) -> None:
    told = rows(under_way(tmp_path), summary={})
    pairs, time = glance.yields(told), glance.time_spent(told)
    assert pairs and time
    assert [(bar.label, bar.value) for bar in pairs.bars] == [("first", "3 of 4"), ("second", "0 of 2")]
    assert [bar.label for bar in time.bars] == ["first"]


def test_only_pairs_from_prompts_are_counted_as_such() -> None:
    spin = {"name": "spin", "kind": "spin", "num_pairs": 15, "yield": {"visits": 15, "pairs": 15}}
    mixed = glance.yields([GIVEN, spin, FIRST])
    assert mixed and (mixed.title, mixed.now) == ("Pairs from prompts", "3")
    assert [bar.value for bar in mixed.bars] == ["6 given", "15 SPIN", "3 of 4"]
    alone = glance.yields([GIVEN])
    assert alone and (alone.title, alone.now) == ("Pairs", "6")
    unknown = glance.yields([{"name": "a", "num_pairs": 2}])
    assert unknown and unknown.bars[0].value == "2", "nothing says that they were given"


def test_a_run_of_given_pairs_alone_says_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "stages" / "01-given").mkdir(parents=True)
    files.write_json(tmp_path / "summary.json", {"schema": 1, "status": "completed", "stages": [GIVEN]})
    page = Page(build_report(tmp_path))
    assert "6 given pairs" in page.text and "pairs stored" not in page.text
    assert "given pairs come with the data and are not copied" in page.text
    assert "has no preference stage" not in page.text


def test_a_manifest_that_is_not_as_it_should_be_does_no_harm(tmp_path: Path) -> None:
    under_way(tmp_path)
    for stages in ("none", [None, 3], [{"state": "done", "outcome": 3}], [{"name": ["x"], "state": "done"}]):
        files.write_json(tmp_path / "manifest.json", {"stages": stages})
        assert "second not finished" in Page(build_report(tmp_path)).text

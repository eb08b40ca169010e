"""The files of docs/extending.md do what the page says, in real runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from self_rewarding_lm_pytorch.pipeline import run
from tests.stages.worlds import PAIRS, PROMPTS, QUIET, rows, without_seconds

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SECTIONS = {
    title: (
        re.findall(r"^```\w+ ([\w.]+\.\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE),
        yaml.safe_load(re.search(r"^```yaml plan\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]),  # type: ignore[index]
    )
    for title, _, text in (
        part.partition("\n") for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    )
}
SMALL = {"candidates.num": 4, "candidates.temperature": 1.0, "candidates.max_new_tokens": 6}


def written(folder: Path, title: str) -> Path:
    """All of the page's files in a folder, with the plan of one section."""
    for files, _ in SECTIONS.values():
        for name, text in files:
            (folder / name).write_text(text, encoding="utf-8")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    shown = SECTIONS[title][1]
    plan: dict[str, Any] = {"model": "tests.stages.worlds:factory", "run": str(folder / "run")}
    plan |= {"stages": shown} if isinstance(shown, list) else shown
    plan["generation"] = {"shard_size": 2, **plan.get("generation", {})}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return path


def small(plan: Path) -> list[str]:
    """Overrides that make the page's stages small, and nothing else of them other."""
    found = []
    for stage in yaml.safe_load(plan.read_text(encoding="utf-8"))["stages"]:
        wanted = {"train.batch_size": 2, "train.learning_rate": 0.01}
        wanted |= SMALL if "prompts" in stage else {}
        wanted |= {"judge.max_new_tokens": 5} if "template" in stage.get("judge", {}) else {}
        found += [f"stages.{stage['name']}.{key}={value}" for key, value in wanted.items()]
    return found


def ran(folder: Path, title: str) -> dict[str, Any]:
    plan = written(folder, title)
    summary = run(plan, overrides=small(plan), reporter=QUIET)
    assert summary["status"] == "completed"
    return summary


def test_the_page_has_a_section_for_each_part() -> None:
    assert list(SECTIONS) == [
        "A reward",
        "A judge",
        "A judge's prompt",
        "A loss",
        "A generator",
        "A stage",
    ]
    assert all(len(text.splitlines()) <= 25 for files, _ in SECTIONS.values() for _, text in files)


@pytest.mark.parametrize("title", SECTIONS)
def test_every_file_of_the_page_runs_to_the_end_and_is_noted_with_the_run(title: str, tmp_path: Path) -> None:
    summary = ran(tmp_path, title)
    assert all(stage["metrics"]["num_steps"] > 0 for stage in summary["stages"])
    noted = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["data"]
    named = {name for name, _ in SECTIONS[title][0]}
    assert named <= set(noted), "a file that decides the result is known by its hash"
    kept = (tmp_path / "run" / "plan.yaml").read_text(encoding="utf-8")
    assert all(name in kept for name in named), "the stored plan names files as the plan did"


def test_the_pages_judge_gives_its_own_votes(tmp_path: Path) -> None:
    ran(tmp_path, "A judge")
    stored = [row for name, many in rows(tmp_path / "run").items() if "/judgments/" in name for row in many]
    assert stored
    for row in stored:
        assert row["votes"][0]["text"].startswith("shares")
        assert row["score"] == pytest.approx(sum(vote["score"] for vote in row["votes"]) / 2)


def test_the_pages_generator_writes_the_candidates(tmp_path: Path) -> None:
    """Two of its four candidates are those that ours would have written."""
    ran(tmp_path, "A generator")
    (tmp_path / "ours").mkdir()
    plan = written(tmp_path / "ours", "A generator")
    text = yaml.safe_load(plan.read_text(encoding="utf-8"))
    del text["generation"]["generator"]
    plan.write_text(yaml.safe_dump(text), encoding="utf-8")
    run(plan, overrides=small(plan), reporter=QUIET)
    both = [
        {
            (row["prompt_index"], row["visit"], row["key"]): row["text"]
            for name, many in rows(folder).items()
            if "/candidates/" in name
            for row in many
        }
        for folder in (tmp_path / "run", tmp_path / "ours" / "run")
    ]
    same = [both[0][key] == both[1][key] for key in both[0].keys() & both[1].keys()]
    assert any(same)
    assert not all(same)


def test_the_pages_stage_trains_on_the_best_alone_and_goes_on_where_it_was(tmp_path: Path) -> None:
    summary = ran(tmp_path, "A stage")
    assert summary["stages"][0]["kind"] == "my_stage.py:BestOfN"
    assert "nll" in summary["stages"][0]["metrics"]
    assert "preference_loss" not in summary["stages"][0]["metrics"]
    plan = tmp_path / "plan.yaml"
    assert without_seconds(run(plan, overrides=small(plan), reporter=QUIET)) == without_seconds(summary)

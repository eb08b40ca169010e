"""The starter recipe, as a newcomer takes it: their model's folder, their prompts, three commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.test_cli import Command, srlm

__all__ = ["srlm"]


@pytest.fixture
def begun(
    stories_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, srlm: Command
) -> tuple[str, ...]:
    """`init` was run beside a file of prompts; the arguments that name the plan and the model."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Tell me of the {word}."} for word in ("sun", "sea", "owl", "fox")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert srlm("init", "--recipe", "starter")[0] == 0
    return "plan.yaml", "--set", f"model={stories_folder}"


def test_plan_finds_nothing_wrong_and_says_what_it_takes(begun: tuple[str, ...], srlm: Command) -> None:
    code, out, _ = srlm("plan", *begun)
    said = " ".join(out.split())
    assert code == 0
    assert "no problem was found in this plan" in said
    assert "parameters: 260.0 k, all trained" in said
    assert "disk: up to" in said
    assert not re.search(r"\bwarning:", said)
    shown = json.loads(srlm("plan", *begun, "--json")[1])
    assert shown["estimates"]["parameters"] == 260_032
    assert shown["unseen"] == []
    first = shown["stages"][0]
    assert first["tokens"]["candidate_tokens"] == 64 * 4 * 128
    assert first["tokens"]["rough"] is False
    assert first["memory"]["weights_bytes"] == 4 * 260_032
    assert first["memory"]["optimizer_bytes"] > 2 * 4 * 260_032


def test_train_runs_it(begun: tuple[str, ...], srlm: Command) -> None:
    small = [
        f"stages.{name}.{key}" for name in ("first", "second") for key in ("num_pairs=2", "batch_size=2")
    ]
    small += ["stages.first.candidates.max_new_tokens=12", "stages.second.candidates.max_new_tokens=12"]
    code, out, _ = srlm("train", *begun, "--json", *(part for each in small for part in ("--set", each)))
    assert code == 0
    summary = json.loads(out)
    assert [(stage["name"], stage["num_pairs"]) for stage in summary["stages"]] == [
        ("first", 2),
        ("second", 2),
    ]


def test_init_lists_for_programs_and_says_what_it_wrote(
    srlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = json.loads(srlm("init", "--json")[1])
    assert {
        "name": "starter",
        "summary": listed[[e["name"] for e in listed].index("starter")]["summary"],
    } in listed
    code, out, _ = srlm("init", "-r", "starter", "--out", "mine/plan.yaml", "--json")
    assert (code, json.loads(out)) == (0, {"plan": "mine/plan.yaml", "schema": "mine/plan.schema.json"})
    assert (tmp_path / "mine/plan.yaml").is_file()
    printed = json.loads(srlm("schema")[1])
    assert printed == json.loads((tmp_path / "mine/plan.schema.json").read_text())
    code, out, _ = srlm("schema", "--out", "other.json")
    assert (code, json.loads((tmp_path / "other.json").read_text())) == (0, printed)
    assert "$schema=./other.json" in out

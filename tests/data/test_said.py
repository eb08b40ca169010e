"""Stages say once how they read their files, and train on parts of one file and hold out the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from tests.stages.worlds import QUIET, STAGES

ROWS = [{"instruction": f"q{n}", "input": "q", "output": "yes"} for n in range(20)]
PAIR = {
    "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}],
    "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "no"}],
}


def test_a_run_says_once_how_each_file_is_read_and_not_again_when_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed, pairs = tmp_path / "seed.jsonl", tmp_path / "pairs.jsonl"
    seed.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pairs.write_text((json.dumps(PAIR) + "\n") * 4)
    plan = {
        "model": "tests.stages.worlds:factory",
        "run": str(tmp_path / "run"),
        "stages": [
            {"name": "first", **STAGES["seed"], "data": {"file": "seed.jsonl", "split": "train[:90%]"}},
            {"name": "again", **STAGES["seed"], "data": {"file": "seed.jsonl", "split": "train[:90%]"}},
            {"name": "pairs", **STAGES["given"], "data": str(pairs)},
        ],
    }
    plan["stages"][0]["valid_data"] = {"file": "seed.jsonl", "split": "train[90%:]"}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    run(path, reporter=Reporter())
    output = capsys.readouterr().out
    form = "alpaca; prompt = instruction + input, response = output"
    assert output.count(f"seed.jsonl, split train[:90%]: {form}; 18 rows") == 1
    assert output.count(f"seed.jsonl, split train[90%:]: {form}; 2 rows") == 1
    assert (
        f"{pairs}: chosen/rejected as messages; prompt = what chosen and rejected begin with; 4 rows"
        in output
    )
    run(path, reporter=Reporter())
    assert "alpaca" not in capsys.readouterr().out


def test_stages_say_once_how_prompts_are_read_but_not_those_that_a_stage_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n}?", "id": n}) + "\n" for n in range(9)))
    own = {**STAGES["text"], "prompts": str(file)}
    plan = {
        "model": "tests.stages.worlds:factory",
        "run": str(tmp_path / "run"),
        "stages": [{"name": "first", **own}, {"name": "second", **own, "num_prompts": 3}],
    }
    run(plan, reporter=Reporter())
    output = capsys.readouterr().out
    assert output.count(f"{file}: prompts; prompt = question; not used: id; 9 rows") == 1
    assert output.count("prompts; prompt") == 1


def test_conversations_are_trained_on_from_a_plan(tmp_path: Path) -> None:
    turns = [("user", "q"), ("assistant", "yes"), ("user", "qq"), ("assistant", "no")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (tmp_path / "talk.jsonl").write_text((json.dumps(row) + "\n") * 4)
    plan = {
        "model": "tests.stages.worlds:factory",
        "run": str(tmp_path / "run"),
        "chat": {"template": "transcript"},
        "stages": [{"name": "talk", **STAGES["seed"], "data": str(tmp_path / "talk.jsonl")}],
    }
    summary = run(plan, reporter=QUIET)
    assert summary is not None
    assert (tmp_path / "run" / "stages" / "01-talk" / "checkpoint").exists()

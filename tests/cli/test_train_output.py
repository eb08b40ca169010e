"""What `train` and `plan` print for programs and for people, whatever runs within them prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.test_cli import PLAN, Command, srlm, world

__all__ = ["srlm", "world"]

LOUD = """
import os
print("loud as it is imported")
def score(prompts, responses):
    print("loud as it is called")
    os.system("echo loud as a child")
    return [float(number) for number, _ in enumerate(responses)]
"""


def test_for_programs_nothing_but_json_is_on_standard_output(world: Path) -> None:
    (world / "loud.py").write_text(LOUD)
    plan = yaml.safe_load(PLAN)
    plan["stages"] = [{**plan["stages"][2], "reward": "loud.py:score"}]
    (world / "loud.yaml").write_text(yaml.safe_dump(plan))
    for command in ("plan", "train"):
        line = [sys.executable, "-m", "self_rewarding_lm_pytorch", command, "loud.yaml", "--json"]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["stages"][0]["name"] == "outside"
        assert "loud as it is imported" in done.stderr
    assert "loud as it is called" in done.stderr
    assert "loud as a child" in done.stderr


def test_a_page_that_cannot_be_written_costs_neither_the_summary_nor_the_exit_code(
    world: Path, srlm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("self_rewarding_lm_pytorch.report.build.build_report", lambda *_: {}["no such key"])
    code, out, err = srlm("train", "plan.yaml", "--set", "stages.outside.num_pairs=2", "--json")
    assert code == 0
    assert json.loads(out)["status"] == "completed"
    assert "the run's page could not be written: KeyError('no such key')" in err
    assert "self-rewarding-lm report runs/tiny" in err


def test_the_closing_table_names_no_checkpoint_that_was_removed(world: Path, srlm: Command) -> None:
    code, out, _ = srlm("train", "plan.yaml", "--set", "keep_last=1", "--quiet")
    assert code == 0
    assert "runs/tiny/stages/01-seed/checkpoint" not in out
    assert "runs/tiny/stages/03-outside/checkpoint" in out
    assert out.count("removed") == 2

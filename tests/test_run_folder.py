"""A run's folder: what it says of the run, and when it lets another one in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.run_folder import RunFolder

QUIET = Reporter(quiet=True)
STAGES = [("seed", "sft"), ("own", "self_reward")]


def text(**changes: object) -> str:
    plan = {"model": "m", "seed": 0, "stages": [{"name": "seed", "train": {"epochs": 3}}, {"name": "own"}]}
    return yaml.safe_dump({**plan, **changes})


def opened(path: Path, plan: str | None = None, *, fresh: bool = False) -> RunFolder:
    folder = RunFolder(path)
    folder.open(plan or text(), 0, STAGES, fresh=fresh)
    folder.settle(False, QUIET)
    return folder


def begun(path: Path, *, state: str = "running") -> RunFolder:
    folder = opened(path)
    folder.begin()
    folder.update_stage(1, state=state)
    return folder


def test_opening_writes_nothing_and_beginning_writes_plan_and_manifest(tmp_path: Path) -> None:
    folder = opened(tmp_path / "r")
    assert not (tmp_path / "r").exists()
    folder.begin(device="cpu")
    assert (tmp_path / "r" / "plan.yaml").read_text() == text()
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["status"] == "running"
    assert manifest["device"] == "cpu"
    assert manifest["stages"] == [
        {"name": "seed", "kind": "sft", "state": "pending"},
        {"name": "own", "kind": "self_reward", "state": "pending"},
    ]
    assert {"python", "torch", "transformers", "self-rewarding-lm-pytorch"} <= set(manifest["versions"])


def test_what_is_said_of_a_stage_is_there_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    begun(tmp_path).update_stage(2, state="running", note=5)
    again = opened(tmp_path)
    again.begin()
    assert again.stage(2) == {"name": "own", "kind": "self_reward", "state": "running", "note": 5}
    assert again.stage_folder(2) == tmp_path / "stages" / "02-own"
    assert not again.is_finished
    again.save(status="completed")
    assert not opened(tmp_path).is_finished, "its last checkpoint is gone"
    (tmp_path / "stages" / "02-own" / "checkpoint").mkdir(parents=True)
    assert opened(tmp_path).is_finished


def test_going_on_takes_back_what_the_failure_said(tmp_path: Path) -> None:
    begun(tmp_path).save(status="failed", error="out of memory")
    opened(tmp_path).begin()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "running"
    assert "error" not in manifest


@pytest.mark.parametrize(
    ("plan", "change"),
    [
        (text(seed=1), "seed: 0 became 1"),
        (text(model="other"), "model: 'm' became 'other'"),
        (text(dtype="auto"), "dtype: None became 'auto'"),
        (
            text(stages=[{"name": "seed", "train": {"epochs": 4}}, {"name": "own"}]),
            r"stages\.1\.train\.epochs: 3 became 4",
        ),
        (text(stages=[{"name": "seed", "train": {"epochs": 3}}]), "stages: 2 became 1 entries"),
    ],
)
def test_another_plan_is_refused_with_every_change_once_a_stage_began(
    plan: str, change: str, tmp_path: Path
) -> None:
    begun(tmp_path)
    with pytest.raises(ConfigError, match=rf"(?s)another plan.*  - {change}\n.*--fresh"):
        opened(tmp_path, plan)
    assert opened(tmp_path, plan, fresh=True).stage(1)["state"] == "pending"


def test_another_plan_may_come_in_while_no_stage_began(tmp_path: Path) -> None:
    begun(tmp_path, state="pending")
    (tmp_path / "initial").mkdir()
    folder = opened(tmp_path, text(seed=1))
    folder.begin()
    assert yaml.safe_load((tmp_path / "plan.yaml").read_text())["seed"] == 1
    assert not (tmp_path / "initial").exists(), "weights of the run that never was"


def test_the_same_plan_written_otherwise_is_the_same_plan(tmp_path: Path) -> None:
    begun(tmp_path)
    assert opened(tmp_path, json.dumps(yaml.safe_load(text()))).stage(1)["state"] == "running"


def test_clearing_removes_the_runs_files_and_no_others(tmp_path: Path) -> None:
    begun(tmp_path)
    for name in ("stages/01-seed/x", "evaluation/M1.json", "initial/w", "data/mine", "mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x")
    for name in ("metrics.jsonl", "summary.json", "report.html", "1.sft.safetensors", "3.sft.safetensors"):
        (tmp_path / name).write_text("x")
    opened(tmp_path, fresh=True).clear()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"data/mine", "mine.txt", "3.sft.safetensors"}, "this run had no third stage"


def test_a_folder_that_is_no_run_is_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    with pytest.raises(CheckpointError, match="no manifest"):
        opened(tmp_path, fresh=True)
    RunFolder(tmp_path).clear()
    assert (tmp_path / "stages").exists()


def test_a_manifest_without_its_plan_is_an_error_in_words(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / "plan.yaml").unlink()
    with pytest.raises(CheckpointError, match="cannot be continued"):
        opened(tmp_path)

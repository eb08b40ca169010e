"""Ctrl-C and SIGTERM: what is under way is stored, the exit code is the shell's, the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.cli.main import main
from self_rewarding_lm_pytorch.errors import ProcessError
from self_rewarding_lm_pytorch.interrupts import Interrupted, deferred
from self_rewarding_lm_pytorch.pipeline import run
from tests.conftest import ROOT
from tests.run_safety.worlds import forked, srlm, write_plan
from tests.stages.worlds import QUIET, plan, rows, weights, without_seconds, written_summary

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals a forked process")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: Any) -> Path:
    """Run in this process, so that those forked from it have every library loaded."""
    folder: Path = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr(sys, "argv", ["srlm", "train", str(write_plan(folder)), "--quiet"])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return folder / "run"


def assert_equal_runs(run_folder: Path, other: Path) -> None:
    assert weights(run_folder) == weights(other)
    assert rows(run_folder) == rows(other)
    assert without_seconds(written_summary(run_folder)) == without_seconds(written_summary(other))


@needs_fork
@pytest.mark.parametrize(
    ("where", "name", "code"),
    [("generation", "SIGINT", 130), ("judging", "SIGTERM", 143), ("training", "SIGTERM", 143)],
)
def test_a_signal_ends_the_command_where_its_work_is_stored_and_the_same_command_goes_on(
    where: str, name: str, code: int, unbroken: Path, tmp_path: Path
) -> None:
    write_plan(tmp_path)
    found, out = forked(srlm("train", "plan.yaml"), tmp_path, SIGNAL_IN=where, SIGNAL=name)
    assert found == code, out
    assert "interrupted in stage 1 (text); the same command goes on from run" in out
    assert "to go on: srlm train plan.yaml" in out
    assert "Traceback" not in out
    assert written_summary(tmp_path / "run")["status"] == "interrupted"
    stored = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.parquet")}
    assert stored, "the unit under way was finished and stored"
    found, out = forked(srlm("train", "plan.yaml"), tmp_path)
    assert found == 0, out
    assert_equal_runs(tmp_path / "run", unbroken)
    assert {p: p.stat().st_mtime_ns for p in stored} == stored, "what was stored was not made again"


def test_the_module_started_by_python_m_ends_with_143_and_goes_on(unbroken: Path, tmp_path: Path) -> None:
    write_plan(tmp_path)
    command = [sys.executable, "-m", "self_rewarding_lm_pytorch", "train", "plan.yaml", "--fresh"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SIGNAL_IN": "judging", "SIGNAL": "SIGTERM"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 143, result
    assert "to go on: python -m self_rewarding_lm_pytorch train plan.yaml\n" in result.stdout, (
        "without --fresh"
    )
    assert not (tmp_path / "run" / "run.lock").exists()


@needs_fork
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    write_plan(tmp_path)
    (tmp_path / "reward.py").write_text(
        "import os, signal, time\n"
        "def reward(prompts, responses):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(50)\n"
    )
    code, out = forked(srlm("train", "plan.yaml"), tmp_path, timeout=40)
    assert code == 130, out
    assert not (tmp_path / "run" / "stages" / "01-text" / "judgments").exists()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"


def test_from_python_a_run_that_is_asked_to_end_raises_interrupted(tmp_path: Path) -> None:
    def asked(env: Any, number: int, stage: Any) -> None:
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    settings = plan(tmp_path / "run", "seed", "given")
    with pytest.raises(Interrupted) as error:
        run(settings, reporter=QUIET, after_stage=asked)
    assert error.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert [s["name"] for s in written_summary(tmp_path / "run")["stages"]] == ["seed"]
    assert run(settings, reporter=QUIET)["status"] == "completed"


def test_a_run_inside_another_one_leaves_it_as_ready_to_end_as_before(tmp_path: Path) -> None:
    def inner(env: Any, number: int, stage: Any) -> None:
        if number == 1:
            run(plan(tmp_path / "inner", "seed"), reporter=QUIET)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(plan(tmp_path / "run", "seed", "given"), reporter=QUIET, after_stage=inner)
    assert [s["name"] for s in written_summary(tmp_path / "run")["stages"]] == ["seed"]


def test_a_run_asked_to_end_in_its_last_stage_after_training_is_finished(tmp_path: Path) -> None:
    def asked(env: Any, number: int, stage: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    summary = run(plan(tmp_path / "run", "seed"), reporter=QUIET, after_stage=asked)
    assert summary["status"] == "completed", "there is nothing left to go on with"


@needs_fork
def test_the_launcher_that_ends_a_process_whose_peer_has_died_leaves_it_time_to_say_so(
    tmp_path: Path,
) -> None:
    def ended() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            with deferred():
                raise ProcessError("another process has ended")
        except ProcessError as error:
            os.kill(os.getpid(), signal.SIGTERM)
            print(error)
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGTERM)
        print("still here")

    code, out = forked(ended, tmp_path)
    assert (code, out.strip()) == (-signal.SIGTERM, "another process has ended"), "the second signal ends it"

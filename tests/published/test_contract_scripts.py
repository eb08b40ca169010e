"""The contract's scripts, run as their user would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = ROOT.parent / "shared" / "contract"


def run_script(name: str, folder: Path) -> list[str]:
    """Exit code 0 is asserted; the names of the checkpoints come back."""
    script = SCRIPTS / name
    if not script.exists():
        pytest.skip(f"the contract is not at {SCRIPTS}")
    environment = {**os.environ, "SMALL": "1", "PYTHONPATH": str(ROOT)}
    environment.setdefault("OMP_NUM_THREADS", "1")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.safetensors"))


@pytest.mark.slow  # 100 rows of 256 tokens through six layers of 512: minutes on one core
def test_self_play_on_its_own_runs_to_its_end(tmp_path: Path) -> None:
    assert run_script("spin.py", tmp_path) == ["spin-checkpoints/1.spin.safetensors"]


def test_dpo_and_another_model_as_judge_run_to_their_end(tmp_path: Path) -> None:
    assert run_script("dpo.py", tmp_path) == ["checkpoints/1.self_reward.safetensors"]


@pytest.mark.slow
def test_the_default_paper_pipeline_runs_to_its_end(tmp_path: Path) -> None:
    found = run_script("self_rewarding.py", tmp_path)
    assert found == [f"checkpoints/{n}.safetensors" for n in ("1.sft", "2.self_reward", "3.self_reward")]


@pytest.mark.slow
def test_a_judge_prompt_of_the_users_own_runs_to_its_end(tmp_path: Path) -> None:
    found = run_script("own_reward_prompt.py", tmp_path)
    assert found == [f"checkpoints/{n}.safetensors" for n in ("1.sft", "2.self_reward", "3.self_reward")]


@pytest.mark.slow
def test_stages_in_any_order_run_to_their_end(tmp_path: Path) -> None:
    kinds = ["sft", "spin", "external_reward", "self_reward", "spin", "self_reward"]
    expected = [f"checkpoints/{number}.{kind}.safetensors" for number, kind in enumerate(kinds, 1)]
    assert run_script("any_order.py", tmp_path) == expected

"""The demo does what it promises, for three seeds."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "self_rewarding_lm_pytorch", "demo"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_model_improves_itself_twice_and_stays_a_good_judge(seed, tmp_path):
    folder = tmp_path / "demo"
    result = subprocess.run(
        [*COMMAND, "--seed", str(seed), "--run-dir", str(folder)],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    summary = json.loads((folder / "summary.json").read_text())
    first, second, third = summary["evaluation"]
    assert [row["model"] for row in summary["evaluation"]] == ["M1", "M2", "M3"]
    # M1 is mediocre on purpose, so that what follows is the model's own doing.
    assert 3.0 <= first["true_score_mean"] <= 3.6
    assert first["true_score_mean"] < second["true_score_mean"] < third["true_score_mean"]
    assert third["true_score_mean"] >= 4.6
    assert third["true_score_mean"] - first["true_score_mean"] >= 1.0
    assert third["true_score_perfect"] >= 0.65
    assert third["judge_spearman"] >= max(0.80, first["judge_spearman"] - 0.03)
    assert (folder / "report.html").stat().st_size > 100_000

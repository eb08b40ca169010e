"""The memory benchmark runs both of its parts; at this size its numbers mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "memory.py"


def test_it_prints_the_curve_over_candidates_and_the_peaks_over_pairs() -> None:
    command = [sys.executable, str(SCRIPT), "--candidates", "64", "--pairs", "50", "--as-json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    header, *rows, growth, peaks = done.stdout.strip().splitlines()
    assert header.split() == ["candidates", "anonymous", "MB", "resident", "MB"]
    done_so_far, anonymous, resident = rows[-1].split()
    assert int(done_so_far) == 64
    assert 0 < float(anonymous) <= float(resident)
    assert growth.startswith("growth for each 10,000 candidates after the first 5,000: +nan")
    found = json.loads(peaks)
    assert found["pairs"] == 50
    assert 0 < found["anonymous"] <= found["resident"]
    assert found["file"] > 0

"""What importing the library leaves unimported. How long it takes is measured by benchmarks/imports.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NAME = "self_rewarding_lm_pytorch"
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "imports.py"
OPTIONAL = ["peft", "bitsandbytes", "wandb", "trackio", "tensorboard", "openai", "playwright", "datasets"]
SLOW = ["transformers", "x_transformers", "accelerate", "scipy", "sympy", "torch.distributed.tensor"]
CASES = {
    f"import {NAME}": ["torch", "numpy", "pydantic", "yaml", "typer", "rich", "pyarrow", *SLOW, *OPTIONAL],
    f"from {NAME} import SelfRewardingTrainer": ["rich", "jinja2", "yaml", "typer", *SLOW, *OPTIONAL],
    f"from {NAME} import run": [*SLOW, *OPTIONAL],
    f"from {NAME} import DPO, SPIN, load_checkpoint": [*SLOW, *OPTIONAL],
    f"import {NAME}.cli.main": ["torch", "numpy", "pyarrow", *SLOW, *OPTIONAL],
}


@pytest.mark.parametrize("statement", CASES)
def test_an_import_leaves_what_is_slow_or_optional_alone(statement: str) -> None:
    code = f"import sys\n{statement}\nimport json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(CASES[statement]) & set(json.loads(done.stdout))


@pytest.mark.slow
def test_the_benchmark_of_imports_measures_each() -> None:
    command = [sys.executable, str(BENCHMARK), "--repeats", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) == 5
    assert all(value > 0 for value in found.values())

"""Starts runs on two processes of this machine, as people do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.conftest import ROOT
from tests.helpers import byte_codec
from tests.stages import worlds

TORCHRUN = ["torch.distributed.run", "--nproc-per-node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCHERS = {"torchrun": TORCHRUN, "accelerate launch": ACCELERATE}


def factory() -> tuple[Any, Any]:
    """A Llama of double precision, so that tokens do not depend on how work is divided."""
    return worlds.hugging_face().double(), byte_codec()


def plan_file(folder: Path, *stages: str | dict[str, Any], **keys: Any) -> Path:
    """A plan in YAML; a stage is a name of tests/stages/worlds.py, or settings."""
    entries = [
        {"name": stage, **worlds.STAGES[stage]} if isinstance(stage, str) else dict(stage) for stage in stages
    ]
    plan = {
        "model": "tests.processes.launch:factory",
        "run": str(folder / "run"),
        "generation": {"shard_size": 3},
        "stages": entries,
        **keys,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(plan, default=str))))
    return folder / "plan.yaml"


def without_dropout(*names: str) -> list[dict[str, Any]]:
    """Stages of tests/stages/worlds.py. Dropout falls otherwise where a step is read in other parts."""
    return [
        {
            "name": name,
            **worlds.STAGES[name],
            "train": {**worlds.STAGES[name].get("train", {}), "dropout": 0.0},
        }
        for name in names
    ]


def start(arguments: list[str], launcher: list[str] | None = TORCHRUN) -> subprocess.Popen[str]:
    """`python -m MODULE ARGUMENTS`, or the same under a launcher."""
    command = [sys.executable, *(["-m", *launcher] if launcher else []), *["-m", *arguments]]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": str(_free_port())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(
    plan: Path, *options: str, launcher: list[str] | None = TORCHRUN, seconds: float = 240
) -> tuple[int, str]:
    """Exit code and everything printed."""
    child = start(["self_rewarding_lm_pytorch", "train", str(plan), *options], launcher)
    try:
        said, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.terminate()  # a launcher that is killed leaves its processes behind
        said, _ = child.communicate()
        raise AssertionError(f"the run hangs; so far: {said[-3000:]}") from None
    return child.returncode, said


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def losses(run: Path) -> list[tuple[str, int, float]]:
    """Stage, step and loss of every logged step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["stage"], line["step"], line["loss"]) for line in lines if "loss" in line]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = sorted((run / "stages").glob("*/checkpoint/model.safetensors"))[-1:]
    return load_file(file)

"""A plan on disk, and commands run in processes of their own that may be signalled and killed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.stages.worlds import plan

MODEL = """
import os, signal
from pathlib import Path
import torch
from tests.helpers import Recurrent, byte_codec

calls = []

class Signalled(Recurrent):
    def forward(self, ids):
        what, mark = os.environ.get("SIGNAL_IN", ""), Path(os.environ.get("MARK", "mark"))
        now = "training" if torch.is_grad_enabled() and self.training else "generation"
        if what == now and not mark.exists() and (calls.append(1) or len(calls) == 2):
            mark.touch()
            os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
        return super().forward(ids)

def make():
    torch.manual_seed(0)
    return Signalled(vocab=256, size=8), byte_codec()
"""
REWARD = """
import os, signal
from pathlib import Path

def reward(prompts, responses):
    mark = Path(os.environ.get("MARK", "mark"))
    if os.environ.get("SIGNAL_IN") == "judging" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
    return [float(sum(map(ord, text)) % 7) for text in responses]
"""


def write_plan(folder: Path, run: str = "run", **changes: Any) -> Path:
    """folder/plan.yaml: one stage that samples, scores and trains, then one that trains on given pairs."""
    (folder / "signalled.py").write_text(MODEL)
    (folder / "reward.py").write_text(REWARD)
    settings = plan(Path(run), "text", "given", model="signalled:make", **changes)
    settings["run"] = run
    settings["stages"][0]["reward"] = "reward.py:reward"
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def forked(work: Callable[[], Any], folder: Path, timeout: float = 60, **environment: str) -> tuple[int, str]:
    """Exit code (negative: the signal that ended it) and output of `work` in a process of its own."""
    out = folder / "out.txt"
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chdir(folder)
            os.environ.update(environment)
            sys.path.insert(0, str(folder))
            stream = out.open("w")
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            sys.stdout = sys.stderr = stream
            code = 0
            work()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 98
        finally:
            sys.stdout.flush()
            os._exit(code)
    status = waited(child, timeout)
    return os.waitstatus_to_exitcode(status), out.read_text()


def waited(child: int, timeout: float = 60) -> int:
    """The status a process ended with; it is killed where it does not end in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError(f"process {child} did not end in {timeout} s")


def srlm(*arguments: str) -> Callable[[], None]:
    """The command line, to be run in a fork."""

    def work() -> None:
        from self_rewarding_lm_pytorch.cli.main import main

        sys.argv = ["srlm", *arguments]
        main()

    return work

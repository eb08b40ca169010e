"""Runs in processes of their own, followed and killed from outside."""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from self_rewarding_lm_pytorch.pipeline import run
from tests.conftest import ROOT
from tests.reliability.moments import AT_THE_END, Announcer, Moment, PrintedMoments, told_moment

_SILENCE_S = 120.0  # without a word from a run: it hangs
_SPIN_S = 0.002  # this near to the instant, look at the clock without sleeping
_FAILED = 7


@dataclass(frozen=True)
class Instant:
    """When to kill: `delay` seconds after the moment `what` has begun for the `number`-th time (from 1)."""

    what: str
    number: int
    delay: float


@dataclass(frozen=True)
class Story:
    """What became of a process."""

    moments: list[Moment]
    ended: float  # monotonic seconds: when it was killed, or was gone
    was_killed: bool

    @property
    def was_cut_off(self) -> bool:
        """Killed with work left: the summary is the last that a run writes."""
        return self.was_killed and self.moments[-1].doing != (AT_THE_END,)


class _Said:
    """What a process writes besides."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115  (it is open as long as the process is)

    def __str__(self) -> str:
        self.file.seek(0)
        return self.file.read()


@dataclass(frozen=True)
class Child:
    """A process that tells what it does. read: where; parse: a line's moment, if it has one."""

    pid: int
    read: int
    parse: Callable[[str], Moment | None]
    wait: Callable[[], int]  # until it is gone; its exit code
    said: _Said  # of its failure, if it fails


def forked(settings: dict[str, Any]) -> Child:
    """The plan's run in a fork of this process, which has imported everything already."""
    torch.set_num_threads(1)
    read, write = os.pipe()
    said = _Said()
    pid = os.fork()
    if pid == 0:
        code = _FAILED
        try:
            os.close(read)
            for descriptor in (1, 2):
                os.dup2(said.file.fileno(), descriptor)
            announcer = Announcer(Path(settings["run"]), write)
            announcer.watch()
            run(settings, reporter=announcer)
            code = 0
        except BaseException:
            traceback.print_exc(file=said.file)
            said.file.flush()
        finally:
            os._exit(code)
    os.close(write)
    return Child(pid, read, told_moment, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said)


def commanded(settings: dict[str, Any]) -> Child:
    """`python -m self_rewarding_lm_pytorch train PLAN`, as a user starts it."""
    plan = Path(settings["run"]).with_suffix(".yaml")
    plan.write_text(yaml.safe_dump(settings), encoding="utf-8")
    environment: Mapping[str, str] = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }
    said = _Said()
    process = subprocess.Popen(
        [sys.executable, "-m", "self_rewarding_lm_pytorch", "train", str(plan)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=said.file,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    return Child(process.pid, os.dup(process.stdout.fileno()), PrintedMoments(), process.wait, said)


def followed(child: Child, instant: Instant | None = None) -> Story:
    """Listens until the process is gone; kills it at the instant, where one is given and it comes."""
    moments: list[Moment] = []
    rest, seen, deadline, killed = b"", 0, math.inf, math.inf  # the last two in monotonic seconds
    while True:
        now = time.monotonic()
        if now >= deadline and killed == math.inf:
            os.kill(child.pid, signal.SIGKILL)
            killed = now
        is_waiting = deadline < math.inf and killed == math.inf
        timeout = max(0.0, deadline - now - _SPIN_S) if is_waiting else _SILENCE_S
        if not select.select([child.read], [], [], timeout)[0]:
            if is_waiting:
                continue
            os.kill(child.pid, signal.SIGKILL)
            raise AssertionError(f"nothing heard for {_SILENCE_S:.0f} s after {moments[-1:]}: the run hangs")
        chunk = os.read(child.read, 65536)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for moment in filter(None, (child.parse(line.decode()) for line in lines)):
            moments.append(moment)
            if instant is not None and moment.what == instant.what:
                seen += 1
                deadline = moment.at + instant.delay if seen == instant.number else deadline
    os.close(child.read)
    code = child.wait()
    assert code in (0, -signal.SIGKILL), f"the run failed with {code} after {moments[-1:]}:\n{child.said}"
    return Story(moments, min(killed, time.monotonic()), was_killed=code == -signal.SIGKILL)

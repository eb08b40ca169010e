"""What a run is in the middle of, told through a pipe as it goes on, so that it can be killed there."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data import files
from self_rewarding_lm_pytorch.progress import Phase, Reporter
from self_rewarding_lm_pytorch.training.early_stopping import EarlyStopper

WRITING = "writing "
CHECKING = "early stopping"
COMMAND = "command"
AT_THE_END = f"after {WRITING}summary.json"
_STAGE = re.compile(r"^\d+\. (.+) \((\w+)\)$")
_ITERATION = re.compile(r"^opponent's answers, (iteration \d+)$")
_FILES = (  # a pattern of the path, and what is being done where such a file is written
    (r"/state/", "training state"),
    (r"/checkpoint$", "checkpoint"),
    (r"^report_cards/", "report card"),
    (r"/pairs/|/skipped\.json$", "pairing"),
    (r"/candidates/", "generation"),
    (r"/judgments/", "judging"),
)
_PHASES = (
    (r": answers \d+$", "generation"),
    (r": (votes|scores) \d+$", "judging"),
    (r"^reference log-probs", "reference"),
    (r"^training", "training"),
    (r"^report card", "report card"),
    (rf"^after {WRITING}.*/judgments/", "pairing"),
)


@dataclass(frozen=True)
class Moment:
    """From `at` (seconds of the monotonic clock) until the next moment, the run is in the middle of this."""

    at: float
    stage: str  # its name and, of SPIN, the iteration
    stage_kind: str
    doing: tuple[str, ...]  # outermost first

    @property
    def what(self) -> str:
        return f"{self.stage}: {' > '.join(self.doing)}" if self.stage else " > ".join(self.doing)

    @property
    def kind(self) -> str:
        """Which kind of work this is; a stage that mixes several kinds is a kind of its own."""
        if self.stage_kind == COMMAND:
            return COMMAND
        inner = self.doing[-1]
        kind = _first(_FILES, inner.removeprefix(WRITING)) if inner.startswith(WRITING) else ""
        if kind in ("training state", "checkpoint", "report card"):
            return kind
        if CHECKING in self.doing:
            return CHECKING
        if self.stage_kind in ("spin", "online") and (kind or len(self.doing) > 1 or _first(_PHASES, inner)):
            return self.stage_kind
        if self.stage_kind == "spin" and inner.startswith("opponent"):
            return "spin"
        if inner.startswith(WRITING):
            return kind or "bookkeeping"
        return _first(_PHASES, inner) or "between"


def _first(table: tuple[tuple[str, str], ...], text: str) -> str:
    return next((kind for pattern, kind in table if re.search(pattern, text)), "")


class Announcer(Reporter):
    """Tells each moment of a run in the process it runs in. run: its folder; pipe: where it tells."""

    def __init__(self, run: Path, pipe: int) -> None:
        super().__init__(quiet=True)
        self._run = run
        self._pipe = pipe
        self._stage = ("", "")
        self._doing: list[str] = []
        self._last = "the start"

    def watch(self) -> None:
        """Tells of every file that is written, too, and of every early stopper's evaluation."""
        files._write_file = self._told_file(files._write_file)
        files._write_folder = self._told_file(files._write_folder)
        for name in ("begin", "check"):
            setattr(EarlyStopper, name, self._told(CHECKING, getattr(EarlyStopper, name)))
        self._tell()

    def say(self, text: str) -> None:
        if begun := _STAGE.match(text):
            self._stage = (begun[1], begun[2])

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Phase]:
        if iteration := _ITERATION.match(label):
            name, kind = self._stage
            self._stage = (f"{name.partition(', ')[0]}, {iteration[1]}", kind)
        phase = Phase(label, total, unit)
        advance, place = phase.advance, len(self._doing)

        def told(count: int = 1, note: str = "") -> None:
            advance(count, note)
            self._doing[place] = f"{label} {phase.done}"
            self._tell()

        phase.advance = told
        with self._in(f"{label} 0"):
            yield phase

    @contextmanager
    def _in(self, doing: str) -> Iterator[None]:
        self._doing.append(doing)
        self._tell()
        try:
            yield
        finally:
            self._last = self._doing.pop()
            self._tell()

    def _told(self, doing: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def told(*arguments: Any, **named: Any) -> Any:
            with self._in(doing):
                return work(*arguments, **named)

        return told

    def _told_file(self, write: Callable[[Path, Any], None]) -> Callable[[Path, Any], None]:
        def told(path: Path, fill: Any) -> None:
            is_within = path.is_relative_to(self._run)
            with self._in(f"{WRITING}{path.relative_to(self._run) if is_within else path}"):
                write(path, fill)

        return told

    def _tell(self) -> None:
        doing = self._doing or [f"after {self._last}"]
        line = json.dumps([time.monotonic(), *self._stage, doing]) + "\n"
        os.write(self._pipe, line.encode())


def told_moment(line: str) -> Moment:
    """What `Announcer` wrote."""
    at, stage, kind, doing = json.loads(line)
    return Moment(at, stage, kind, tuple(doing))


class PrintedMoments:
    """Of the command, which nothing is added to: the lines it prints. What runs is what follows a line."""

    _DONE = re.compile(r"^ *(.*?): [\d,]+ \w+ in [\d.,]+ s ")

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, line: str) -> Moment | None:
        now = time.monotonic()
        if begun := _STAGE.match(line.rstrip()):
            self._stage = begun[1]
            return Moment(now, self._stage, COMMAND, ("begun",))
        done = self._DONE.match(line)
        return Moment(now, self._stage, COMMAND, (f"after {done[1]}",)) if done else None

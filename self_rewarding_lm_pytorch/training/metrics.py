"""metrics.jsonl: one line for each logged step, always on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.files import write_text
from self_rewarding_lm_pytorch.training.parts import Part

OnLine = Callable[[str, int, Mapping[str, float]], None]
"""Called in the main process for each line that was written: (training, its step, metrics)."""


def significant(metrics: Mapping[str, float]) -> dict[str, float]:
    """Seven significant digits, as float32 has: a learning rate of 5e-7 must not become 0."""
    return {name: float(f"{value:.7g}") for name, value in metrics.items()}


def training_of(line: Mapping[str, Any]) -> str:
    """What a line's training is called: as its stage, with the iteration where the stage has several."""
    return _training(str(line["stage"]), line.get("iteration"))


class RunSteps:
    """Optimizer steps of a whole run, over all its trainings in the order in which they were logged.

    Each training counts from 1 and is told by its name; in files of older versions, where all of SPIN's
    iterations have one, by a step that does not rise. A training's last step is always logged, so the lines
    alone tell the total.
    """

    def __init__(self) -> None:
        self._before = 0  # of the trainings before the last one
        self._training, self._step = "", 0

    @property
    def total(self) -> int:
        return self._before + self._step

    def add(self, training: str, step: int) -> int:
        """The total at the line of this step."""
        if training != self._training or step <= self._step:  # another training
            self._before += self._step
        self._training, self._step = training, step
        return self.total


def run_steps(path: Path) -> RunSteps:
    """Of the lines that a metrics file has."""
    found = RunSteps()
    for line in _lines(path):
        if (place := _place(line)) is not None:
            found.add(*place)
    return found


class MetricsLog:
    """Appends lines of one stage; what an interrupted attempt wrote after its last state is taken out."""

    def __init__(self, path: Path, stage: str, on_line: OnLine | None = None) -> None:
        self._path = path
        self._stage = stage
        self._on_line = on_line
        self.iteration: int | None = None  # from 1, where the stage trains in several; the one under way
        self.num_lines = 0  # of the stage: written by this log, or kept by `begin`

    def aside(self, name: str) -> MetricsLog:
        """A log of another training that the stage needs."""
        return MetricsLog(self._path, f"{self._stage}/{name}", self._on_line)

    def begin(self, num_lines: int | None = None) -> None:
        """Keeps the stage's first num_lines lines, as many as its training had when it was saved; None: all.

        Half a line, from a run that was cut off while writing it, is dropped in any case.
        """
        if num_lines is not None:
            self.num_lines = num_lines
        text = processes.on_main(lambda: self._without_later(num_lines))
        if text is not None:
            write_text(self._path, text)

    def _without_later(self, num_lines: int | None) -> str | None:
        """The file as it should be, or None where it is so."""
        lines = _lines(self._path)
        kept: list[str] = []
        own = 0
        for line in lines:
            stage = _stage_of(line)
            own += stage == self._stage
            is_later = stage == self._stage and num_lines is not None and own > num_lines
            if stage is not None and not is_later:
                kept.append(line)
        return None if len(kept) == len(lines) else "".join(f"{line}\n" for line in kept)

    def write(self, step: int, num_steps: int, metrics: dict[str, float]) -> None:
        head: dict[str, Any] = {"stage": self._stage}
        if self.iteration is not None:
            head["iteration"] = self.iteration
        head |= {"step": step, "num_steps": num_steps, "time": round(time.time(), 3)}
        found = significant(metrics)
        line = json.dumps({**head, **found}) + "\n"
        processes.on_main(lambda: self._append(line))
        self.num_lines += 1
        if self._on_line is not None and processes.is_main():
            self._on_line(_training(self._stage, self.iteration), step, found)

    def _append(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    def state(self) -> Part:
        """How many lines the stage has; they are on disk before the state that says so."""
        processes.on_main(self._sync)
        return Part(values={"num_lines": self.num_lines})

    def _sync(self) -> None:
        if self._path.exists():
            with self._path.open("rb+") as file:
                os.fsync(file.fileno())

    def resume(self, part: Part) -> None:
        self.begin(part.values["num_lines"])


def _training(stage: str, iteration: object) -> str:
    return stage if iteration is None else f"{stage}/iteration-{iteration}"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _stage_of(line: str) -> str | None:
    """The stage that a line is of; None where it is not whole."""
    try:
        return str(json.loads(line)["stage"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


def _place(line: str) -> tuple[str, int] | None:
    """Training and step of a line; None where it is not whole."""
    try:
        found = json.loads(line)
        return training_of(found), int(found["step"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None

"""alarms.jsonl: one line for each alarm that a run gave. No more than one of a kind in a stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.alarms import Alarm
from self_rewarding_lm_pytorch.data.files import write_text

FILE = "alarms.jsonl"


def stored_alarms(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's file, in their order; what cannot be read is left out."""
    try:
        lines = (run_folder / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


class AlarmLog:
    """The file of one run; all processes call these together."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder

    def record(self, alarm: Alarm) -> None:
        """Adds it, in the place of one of its kind and stage that was not given earlier in the stage."""
        lines = self._lines()
        for place, line in enumerate(lines):
            if (line.get("stage"), line.get("kind")) == (alarm.stage, alarm.kind):
                at = line.get("at")
                if not isinstance(at, int) or at >= alarm.at:
                    lines[place] = asdict(alarm)
                    self._write(lines)
                return
        self._write([*lines, asdict(alarm)])

    def forget(self, stage: str, is_gone: Callable[[str], bool]) -> None:
        """Takes out a stage's alarms of some kinds."""
        lines = self._lines()
        kept = [line for line in lines if line.get("stage") != stage or not is_gone(str(line.get("kind")))]
        if kept != lines:
            self._write(kept)

    def _lines(self) -> list[dict[str, Any]]:
        return processes.agreed(stored_alarms(self._folder))

    def _write(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        if text != "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self._lines()):
            write_text(self._folder / FILE, text)

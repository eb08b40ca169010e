"""A run's alarms as the page and the terminal show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.report.words import DASH, is_number
from self_rewarding_lm_pytorch.stages.alarm_log import stored_alarms

_LONGEST = 2_000  # characters of an alarm's text


@dataclass(frozen=True)
class Row:
    """One alarm, all of it text."""

    kind: str
    stage: str
    place: str  # "shard 3"
    value: str
    threshold: str
    then: str
    text: str


@dataclass(frozen=True)
class Alarms:
    """What the page's section on alarms shows."""

    rows: list[Row]
    is_watched: bool  # whether the run's plan says of alarms at all; runs of older versions do not


def alarms_of(run_folder: Path, plan: str) -> Alarms:
    """plan: the resolved plan's text."""
    return Alarms(alarm_rows(run_folder), "\nalarms:" in f"\n{plan}")


def alarm_rows(run_folder: Path) -> list[Row]:
    """Of a run's folder, in the order they were given; none where none was."""
    return [_row(line) for line in stored_alarms(run_folder)]


def alarm_lines(run_folder: Path) -> list[str]:
    """What a terminal says of them when the run ends: how many, then a line for each."""
    rows = alarm_rows(run_folder)
    if not rows:
        return []
    count = f"{len(rows)} alarm{'' if len(rows) == 1 else 's'}:"
    return [count, *(f"  {row.kind} in {row.stage}, {row.place} ({row.then}): {row.text}" for row in rows)]


def _row(line: Mapping[str, Any]) -> Row:
    """What is not as it should be is as absent as what is missing."""
    words = {name: str(line.get(name) or DASH)[:_LONGEST] for name in ("kind", "stage", "then", "text")}
    place = f"{line.get('unit') or ''} {line['at']:,}".strip() if is_number(line.get("at")) else DASH
    return Row(place=place, value=_number(line, "value"), threshold=_number(line, "threshold"), **words)


def _number(line: Mapping[str, Any], name: str) -> str:
    value = line.get(name)
    return f"{value:.4g}" if is_number(value) else DASH

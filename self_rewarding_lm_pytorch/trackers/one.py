"""One tracker of a run, through accelerate's class for it."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch.model_card.markdown import cell
from self_rewarding_lm_pytorch.stages.tracker_settings import TrackerSettings


@dataclass(frozen=True)
class Start:
    """What a tracker is started with."""

    folder: Path  # RUN/trackers
    run: str  # the run folder's name
    run_id: str  # the same in every go
    plan: Mapping[str, Any]  # resolved
    step: int  # that of the first thing to be logged; a later one of an earlier go is outdated
    is_new: bool  # whether this is the run's first go


@dataclass(frozen=True)
class Table:
    """A few rows of text."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_markdown(self) -> str:
        lines = [
            self.columns,
            ["---"] * len(self.columns),
            *([cell(text) for text in row] for row in self.rows),
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class OneTracker:
    """What all trackers share; subclasses say what is particular to theirs."""

    needs_step = False  # whether it hides what is logged again, and has to know from which step on

    def __init__(self, settings: TrackerSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self.tracker: Any = settings.instance

    def start(self, start: Start) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if self.tracker is None:
            kind = LOGGER_TYPE_TO_CLASS[self.name]
            places = [str(start.folder)] if kind.requires_logging_directory else []
            options = {**self.defaults(start), **self._settings.options}
            self.tracker = kind(self._project(start), *places, **options)
        self.tracker.start()
        self.store_plan(start)

    def _project(self, start: Start) -> str:
        return self._settings.project

    def defaults(self, start: Start) -> dict[str, Any]:
        """Options where the plan gives none."""
        return {}

    def store_plan(self, start: Start) -> None:
        self.tracker.store_init_configuration(_flat(start.plan))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.tracker.log(dict(values), step=step)

    def log_table(self, table: Table, step: int) -> None:
        if hasattr(self.tracker, "log_table"):
            rows = [list(row) for row in table.rows]
            self.tracker.log_table(table.name, columns=list(table.columns), data=rows, step=step)

    def finish(self) -> None:
        if self.tracker is not None:
            self.tracker.finish()


class TensorBoard(OneTracker):
    """Its own event file for each go; what that writes again is hidden in the older ones."""

    needs_step = True

    def _project(self, start: Start) -> str:
        return "tensorboard"  # accelerate takes it for a folder's name

    def defaults(self, start: Start) -> dict[str, Any]:
        return {} if start.is_new else {"purge_step": start.step}

    def store_plan(self, start: Start) -> None:
        if start.is_new:  # as text: its table of hyperparameters knows no nesting and makes a run of its own
            text = yaml.safe_dump(dict(start.plan), sort_keys=False, allow_unicode=True)
            indented = "".join(f"    {line}\n" for line in text.splitlines())
            self.tracker.log({"plan": indented}, step=0)

    def log_table(self, table: Table, step: int) -> None:
        self.tracker.log({table.name: table.as_markdown()}, step=step)


class Wandb(OneTracker):
    """The same run in every go."""

    def defaults(self, start: Start) -> dict[str, Any]:
        start.folder.mkdir(parents=True, exist_ok=True)
        return {"id": start.run_id, "name": start.run, "resume": "allow", "dir": str(start.folder)}

    def store_plan(self, start: Start) -> None:
        self.tracker.store_init_configuration(dict(start.plan))


class Trackio(OneTracker):
    """The same run in every go, by its name."""

    def defaults(self, start: Start) -> dict[str, Any]:
        return {"name": f"{start.run}-{start.run_id}", "resume": "allow"}

    def log_table(self, table: Table, step: int) -> None:
        pandas, trackio = importlib.import_module("pandas"), importlib.import_module("trackio")  # no types
        frame = pandas.DataFrame([list(row) for row in table.rows], columns=list(table.columns))
        self.tracker.log({table.name: trackio.Table(dataframe=frame)}, step=step)


_KINDS: dict[str, type[OneTracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def one_tracker(settings: TrackerSettings) -> OneTracker:
    kind = OneTracker if settings.instance is not None else _KINDS.get(settings.name, OneTracker)
    return kind(settings)


def new_run_id() -> str:
    """Unique among the runs of a project, not reproducible: two runs of one plan are two runs there."""
    return secrets.token_hex(4)


def _flat(value: Any, path: str = "") -> dict[str, str | int | float | bool]:
    """A plan's values by their places, which all trackers take."""
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(str(number), part) for number, part in enumerate(value, 1)]
    else:
        return {path: value if isinstance(value, str | int | float | bool) else str(value)}
    return {
        place: found
        for key, part in parts
        for place, found in _flat(part, f"{path}.{key}" if path else key).items()
    }

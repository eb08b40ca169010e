"""All trackers of a run. One that fails is left out from then on, with one warning; no run ends by it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.stages.tracker_settings import TrackerSettings
from self_rewarding_lm_pytorch.trackers.one import OneTracker, Start, new_run_id, one_tracker
from self_rewarding_lm_pytorch.trackers.samples import sample_table
from self_rewarding_lm_pytorch.training.metrics import RunSteps, run_steps

FOLDER = "trackers"
"""In the run's folder: what trackers write that keep files, and what was sent in earlier goes."""


class Trackers:
    """Sends what a run logs, in the main process alone.

    The step is the number of optimizer steps of the whole run, which rises over all stages. Metrics stand
    under their stage's folder name (01-seed/loss), results of stages under results/, report_card/ and
    evaluation/, so that a chart of them has a point for each stage.

    folder: the run's. plan: resolved. accelerator: whose `get_tracker` knows them too.
    """

    def __init__(
        self,
        settings: Sequence[TrackerSettings],
        folder: Path,
        plan: Mapping[str, Any],
        reporter: Reporter,
        accelerator: Any = None,
    ) -> None:
        self._waiting = [one_tracker(each) for each in settings] if processes.is_main() else []
        self._alive: list[OneTracker] = []
        self._folder = folder
        self._plan = {key: value for key, value in plan.items() if key != "trackers"}
        self._reporter = reporter
        self._accelerator = accelerator
        self._steps: RunSteps | None = None  # None: metrics.jsonl may still be cut back to a stored state
        self._training: tuple[str, int] = ("", 0)  # stage and step of the last line
        self._sent: dict[str, Any] = {}

    def begin(self) -> None:
        """Starts those that can be before it is known from which step on the run goes on."""
        if not self._waiting:
            return
        self._sent = _read_sent(self._state)
        self._sent["goes"] += 1
        self._write_sent()
        self._start([each for each in self._waiting if not each.needs_step], 0)

    def line(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """A line of metrics.jsonl, which it has."""
        if not (self._waiting or self._alive):
            return
        former, self._training = self._training, (stage, step)
        if self._steps is None or former[0] != stage or step <= former[1]:  # a training begins or goes on
            self._steps = run_steps(self._folder / "metrics.jsonl")
        else:
            self._steps.add(stage, step)
        total = self._steps.total
        self._start(self._waiting, total)
        # Those that cannot hide what an earlier go has sent do not get it again: it is the same, to the bit.
        behind = total <= self._sent["step"]
        to = [tracker for tracker in self._alive if tracker.needs_step or not behind]
        self._log(f"{stage}/", metrics, total, to)
        if not behind and any(not each.needs_step for each in self._alive):
            self._sent["step"] = total
            self._write_sent()

    def card(self, name: str, row: Mapping[str, Any]) -> None:
        """A report card's values (`summary_rows`), once for each name."""
        self._once(f"report card {name}", lambda: self._log("report_card/", _numbers(row), self._total))

    def stage_done(self, folder: Path, outcome: Mapping[str, Any], row: Mapping[str, Any] | None) -> None:
        """A stage's entry of the summary, its evaluation's row, and samples; once for each stage."""

        def send() -> None:
            results = _numbers(outcome)
            results |= {f"yield/{name}": value for name, value in _numbers(outcome.get("yield", {})).items()}
            self._log("results/", results, self._total)
            self._log("evaluation/", _numbers(row or {}), self._total)
            self._send_samples(folder)

        self._once(f"results {folder.name}", send)

    def close(self) -> None:
        """Lets the trackers write what they hold back."""
        for tracker in list(self._alive):
            self._try(tracker, tracker.finish)
        self._alive, self._waiting = [], []

    @property
    def _total(self) -> int:
        return (self._steps or run_steps(self._folder / "metrics.jsonl")).total

    def _send_samples(self, folder: Path) -> None:
        try:
            table = sample_table(folder)
        except (OSError, CheckpointError) as error:
            self._reporter.warn(f"no samples of {folder.name} were sent to the trackers: {error}")
            return
        if table is not None:
            for tracker in list(self._alive):
                self._try(tracker, partial(tracker.log_table, table, self._total))

    def _log(
        self, prefix: str, values: Mapping[str, float], step: int, to: Sequence[OneTracker] | None = None
    ) -> None:
        named = {f"{prefix}{name}": value for name, value in values.items()}
        for tracker in list(self._alive if to is None else to) if named else []:
            self._try(tracker, partial(tracker.log, named, step))

    def _once(self, what: str, send: Callable[[], None]) -> None:
        if not (self._waiting or self._alive) or what in self._sent["done"]:
            return
        self._start(self._waiting, self._total + 1)  # all lines so far stay
        send()
        self._sent["done"].append(what)
        self._write_sent()

    def _start(self, trackers: Sequence[OneTracker], step: int) -> None:
        """step: of the next line; those of an earlier go from there on are outdated."""
        if not trackers:
            return
        is_new = self._sent["goes"] == 1
        run_id = self._sent["run_id"]
        start = Start(self._folder / FOLDER, self._folder.name, run_id, self._plan, step, is_new)
        self._waiting = [each for each in self._waiting if each not in trackers]
        for tracker in trackers:
            self._alive.append(tracker)
            self._try(tracker, partial(tracker.start, start))
        if self._accelerator is not None:
            self._accelerator.trackers = [tracker.tracker for tracker in self._alive]

    def _try(self, tracker: OneTracker, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._alive.remove(tracker)
            self._reporter.warn(
                f"the tracker {tracker.name} failed ({type(error).__name__}: {error!s:.300}) and gets "
                "nothing more in this go; the run goes on, and metrics.jsonl in its folder has every step"
            )

    @property
    def _state(self) -> Path:
        return self._folder / FOLDER / "sent.json"

    def _write_sent(self) -> None:
        with processes.apart():
            write_json(self._state, self._sent)


def _read_sent(file: Path) -> dict[str, Any]:
    """What earlier goes have sent; without one, or where the file is damaged, a new run for trackers."""
    new: dict[str, Any] = {"run_id": new_run_id(), "goes": 0, "step": 0, "done": []}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {key: type(value)(found[key]) for key, value in new.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return new


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn; absent is left out."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }

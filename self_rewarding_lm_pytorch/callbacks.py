"""What Python users may hang onto a run: called as it begins, at stages, after steps, at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.errors import ConfigError


@dataclass(frozen=True)
class StageInfo:
    """A stage of the run."""

    number: int  # from 1
    name: str
    kind: str
    folder: Path  # RUN/stages/NN-NAME


@dataclass(frozen=True)
class RunInfo:
    """The run as it begins, or goes on."""

    folder: Path
    plan: Mapping[str, Any]  # resolved, every default visible; objects from Python by their names
    stages: tuple[StageInfo, ...]
    num_done: int  # stages that an earlier go has finished; nothing is called for these


class Callback:
    """Base of callbacks: override what you need, and give instances as `run(plan, callbacks=[...])`.

    What a callback raises ends the run as any error does; what is stored is kept, and the same call goes on.
    A stage that an earlier go has finished is passed over. One that was cut off begins again for its callback
    (`on_stage_begin`), while steps that are stored are not called again.

    main_process_only: on several processes, whether only the main one calls. One that communicates with the
    others must set it to False; all of them then call in the same order.
    """

    main_process_only = True

    def on_run_begin(self, run: RunInfo) -> None:
        """Everything is checked and the model is loaded; no stage has begun in this go."""

    def on_stage_begin(self, stage: StageInfo) -> None:
        """Before anything is sampled or trained."""

    def on_step(self, stage: StageInfo, step: int, num_steps: int, metrics: Mapping[str, float]) -> None:
        """After each optimizer step, which is not waited for: on a GPU it may still be under way.

        step: from 1; it begins again where a stage trains several times (SPIN's iterations). metrics: the
        means since the last logged step, at logged steps (`log_every`); empty at others.
        """

    def on_stage_end(self, stage: StageInfo, outcome: Mapping[str, Any], module: nn.Module) -> None:
        """The stage's checkpoint is written and its report card taken.

        outcome: the stage's entry of summary.json. module: the model with the stage's final weights; what a
        callback changes in it is what the next stage starts from. Called again where the run is killed
        right here.
        """

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        """All stages are done and summary.json is written; not where the run is stopped or fails."""


class Callbacks:
    """All callbacks of a run, called in their order. Raises ConfigError for what is none."""

    def __init__(self, given: Sequence[Callback] = ()) -> None:
        for callback in given:
            if not isinstance(callback, Callback):
                what = "the class itself" if isinstance(callback, type) else f"a {type(callback).__name__}"
                raise ConfigError(
                    f"callbacks holds {what} ({callback!r:.60}), which cannot be called at stages and steps; "
                    "give instances of a class that extends self_rewarding_lm_pytorch.callbacks.Callback"
                )
        self._given = tuple(given)

    @property
    def _called(self) -> list[Callback]:
        return [each for each in self._given if processes.is_main() or not each.main_process_only]

    def run_begins(self, run: RunInfo) -> None:
        for callback in self._called:
            callback.on_run_begin(run)

    def stage_begins(self, stage: StageInfo) -> None:
        for callback in self._called:
            callback.on_stage_begin(stage)

    def step_done(self, stage: StageInfo, step: int, num_steps: int, metrics: Mapping[str, float]) -> None:
        for callback in self._called:
            callback.on_step(stage, step, num_steps, metrics)

    def stage_ends(self, stage: StageInfo, outcome: Mapping[str, Any], module: nn.Module) -> None:
        for callback in self._called:
            callback.on_stage_end(stage, outcome, module)

    def run_ends(self, summary: Mapping[str, Any]) -> None:
        for callback in self._called:
            callback.on_run_end(summary)

"""How a stage's trainings are saved as they go, and gone on with or taken over when the stage runs again."""

from __future__ import annotations

import time
from collections.abc import Mapping

from self_rewarding_lm_pytorch import interrupts
from self_rewarding_lm_pytorch.stages.base import StageOutcome, StageRun
from self_rewarding_lm_pytorch.training.parts import Part, Resumable
from self_rewarding_lm_pytorch.training.state import FOLDER, TrainingStates
from self_rewarding_lm_pytorch.training.trained import TrainedWeights


def training_states(run: StageRun, name: str, num_items: int, num_steps: int) -> TrainingStates:
    """Of the stage's training `name`, on so many items (or prompts), for so many steps."""
    return TrainingStates(
        run.folder / FOLDER / name,
        of=[*run.seed, name, num_items, num_steps],
        every=run.env.save_every_seconds,
        warn=run.env.reporter.warn,
    )


def finished(
    run: StageRun, states: TrainingStates, parts: Mapping[str, Resumable] | None = None
) -> StageOutcome | None:
    """What a training that has ended before came to, its weights in the policy; None where it has not.

    parts: what else of it is taken over, if it was stored.
    """
    module = run.env.policy.module
    stored = states.take_over({"policy": TrainedWeights(module), **(parts or {})})
    if stored is None:
        return None
    run.metrics.num_lines = stored["log"].values["num_lines"]  # those of later trainings stay in the file
    module.eval()
    return StageOutcome(**stored["outcome"].values)


def finish(
    run: StageRun, states: TrainingStates, outcome: StageOutcome, parts: Mapping[str, Resumable]
) -> None:
    """Stores what a training came to. parts: of which those are kept that hold no tensors."""
    held = {name: part.state() for name, part in parts.items()}
    stored = {name: part for name, part in held.items() if not part.tensors}
    stored["policy"] = TrainedWeights(run.env.policy.module).state()
    stored["outcome"] = Part(values={"train_seconds": outcome.train_seconds, "metrics": outcome.metrics})
    states.finish(stored)
    interrupts.unit_done()


class Clock:
    """Seconds of a training, over all goes at it."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def state(self) -> Part:
        return Part(values={"seconds": self.seconds})

    def resume(self, part: Part) -> None:
        """Goes on from the stored ones: what led here again is not counted twice."""
        self._before, self._started = part.values["seconds"], time.monotonic()

"""Stop when a score falls, and go back to the best weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.files import write_atomically
from self_rewarding_lm_pytorch.errors import TrainingError
from self_rewarding_lm_pytorch.models.policy import evaluation_mode
from self_rewarding_lm_pytorch.models.weights import save_weights
from self_rewarding_lm_pytorch.training.parts import NotStorable, Part
from self_rewarding_lm_pytorch.training.trained import put_weights, trained_weights


class ComparingEvaluation(ABC):
    """An evaluation that scores a model by how it compares with itself at the call before."""

    @abstractmethod
    def begin(self, module: nn.Module) -> float:
        """Takes the model as training begins, to compare the first call with; its score."""

    @abstractmethod
    def __call__(self, module: nn.Module) -> float:
        """The score now: above the last where the model is better, equal where neither is."""

    def state(self) -> Part:
        """What it compares the next call with, so that a training cut off can be gone on with."""
        raise NotStorable(f"its evaluation, a {type(self).__name__}, has no method `state`")

    def resume(self, part: Part) -> None:
        """Takes what `state` gave, in the place of `begin`."""
        raise NotStorable(f"its evaluation, a {type(self).__name__}, has no method `resume`")


class EarlyStopper:
    """Asks `evaluate(model) -> number` (higher is better) every so many steps.

    calculate_should_stop: scores so far -> whether to stop; by default at the first fall.
    early_stop_checkpoint_folder: where the best weights are also written, as best.safetensors.
    A plain `evaluate` must not remember: a training that is gone on with asks another copy of it.
    The best weights are kept on the CPU and put back by `restore`; of equally good ones the first, or with a
    ComparingEvaluation, which scores the weights as training begins too, the latest.
    """

    def __init__(
        self,
        evaluate: Callable[[nn.Module], Any],
        *,
        every: int,
        calculate_should_stop: Callable[[list[float]], bool] | None = None,
        early_stop_checkpoint_folder: str | Path | None = None,
    ) -> None:
        self._evaluate = evaluate
        self.every = every
        self._should_stop = calculate_should_stop or has_fallen
        self._folder = Path(early_stop_checkpoint_folder) if early_stop_checkpoint_folder else None
        self.scores: list[float] = []
        self._best_score = -math.inf
        self._best: dict[str, Tensor] = {}

    def begin(self, module: nn.Module) -> None:
        """Forgets an earlier training; a ComparingEvaluation takes the weights as they are."""
        self.scores.clear()
        self._best_score, self._best = -math.inf, {}
        if isinstance(self._evaluate, ComparingEvaluation):
            with evaluation_mode(module):
                self._take(self._evaluate.begin(module), module)

    def check(self, module: nn.Module) -> bool:
        """Evaluates now; True when training should stop."""
        with evaluation_mode(module):
            self._take(processes.agreed(float(self._evaluate(module))), module)
        return bool(self._should_stop(self.scores))

    def _take(self, score: float, module: nn.Module) -> None:
        if math.isnan(score):
            raise TrainingError(
                "the early stopper's evaluation gave NaN, so no best weights can be told; it must "
                "return one number, higher is better"
            )
        self.scores.append(score)
        is_equal = score == self._best_score and isinstance(self._evaluate, ComparingEvaluation)
        if score > self._best_score or is_equal:
            self._best_score = score
            self._best = {name: own.cpu().clone() for name, own in trained_weights(module).items()}
            if self._folder is not None:
                write_atomically(self._folder / "best.safetensors", lambda path: save_weights(module, path))

    def state(self) -> Part:
        comparing = self._evaluate.state() if isinstance(self._evaluate, ComparingEvaluation) else Part()
        if comparing.tensors:
            raise NotStorable("its evaluation compares by tensors, which the early stopper does not store")
        values = {"scores": self.scores, "best_score": self._best_score, "evaluation": comparing.values}
        return Part(self._best, values)

    def resume(self, part: Part) -> None:
        self.scores[:] = part.values["scores"]
        self._best_score, self._best = part.values["best_score"], dict(part.tensors)
        if isinstance(self._evaluate, ComparingEvaluation):
            self._evaluate.resume(Part(values=part.values["evaluation"]))

    def restore(self, module: nn.Module) -> None:
        """Puts the best weights back, if anything was evaluated."""
        if self._best:
            put_weights(module, self._best)


def has_fallen(scores: list[float]) -> bool:
    """Whether the last score is below the one before."""
    return len(scores) > 1 and scores[-1] < scores[-2]

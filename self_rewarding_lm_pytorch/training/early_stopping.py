"""Stop when a score falls, and go back to the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import TrainingError


class EarlyStopper:
    """Asks `evaluate(model) -> number` (higher is better); stops at the first fall.

    The best weights are kept on the CPU and put back by `restore`.
    """

    def __init__(self, evaluate: Callable[[nn.Module], Any], *, every: int) -> None:
        self._evaluate = evaluate
        self.every = every
        self.scores: list[float] = []
        self._best_score = -math.inf
        self._best: dict[str, Tensor] = {}

    def check(self, module: nn.Module) -> bool:
        """Evaluates now; True when training should stop."""
        was_training = module.training
        module.eval()
        with torch.no_grad():
            score = float(self._evaluate(module))
        module.train(was_training)
        if math.isnan(score):
            raise TrainingError(
                "the early stopper's evaluation gave NaN, so no best weights can be told; it must "
                "return one number, higher is better"
            )
        fell = bool(self.scores) and score < self.scores[-1]
        self.scores.append(score)
        if score > self._best_score:
            self._best_score = score
            self._best = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
        return fell

    def restore(self, module: nn.Module) -> None:
        """Puts the best weights back, if anything was evaluated."""
        if self._best:
            module.load_state_dict(self._best)

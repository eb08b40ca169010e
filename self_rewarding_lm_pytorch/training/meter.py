"""What a training logs. Numbers stay on the device until they are read, so that no step waits for them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

Metrics = dict[str, float]


@dataclass(frozen=True)
class BadStep:
    """A step whose gradient is not finite."""

    rate: float
    norm: float
    since: int  # steps before the last one


class Meter:
    """Sums since the last reading."""

    def __init__(self) -> None:
        self.tokens = 0  # read by the model, padding not counted
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, float] = {}
        self._rates: list[float] = []
        self._norms: list[Tensor] = []
        self._began = time.monotonic()

    def add(self, name: str, value: Tensor, count: float) -> None:
        """value: a sum over `count` items, detached."""
        self._sums.setdefault(name, []).append(value)
        self._counts[name] = self._counts.get(name, 0.0) + count

    def end_step(self, rate: float, norm: Tensor) -> None:
        """The step's learning rate and gradient norm."""
        self._rates.append(rate)
        self._norms.append(norm)
        self._counts["loss"] = self._counts.get("loss", 0.0) + 1

    @property
    def num_steps(self) -> int:
        """Since the last reading."""
        return len(self._rates)

    def bad_step(self) -> BadStep | None:
        """The first step since the last reading whose gradient was not finite."""
        norms = torch.stack(self._norms).tolist()
        bad = next((number for number, norm in enumerate(norms) if not math.isfinite(norm)), None)
        return None if bad is None else BadStep(self._rates[bad], norms[bad], len(norms) - 1 - bad)

    def read(self) -> Metrics:
        """Means since the last reading, the last learning rate and gradient norm, and tokens per second."""
        names = list(self._sums)
        sums = [torch.stack(self._sums[name]).sum().double() for name in names]
        *totals, norm = torch.stack([*sums, self._norms[-1].double()]).tolist()
        means = {name: total / self._counts[name] for name, total in zip(names, totals, strict=True)}
        last = {"learning_rate": self._rates[-1], "grad_norm": norm}
        now = time.monotonic()
        speed = self.tokens / max(now - self._began, 1e-9)
        self._sums, self._counts, self.tokens, self._began = {}, {}, 0, now
        self._rates, self._norms = [], []
        return means | last | {"tokens_per_second": speed}

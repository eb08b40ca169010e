"""What a training logs. Numbers stay on the device until they are read, so that no step waits for them."""

from __future__ import annotations

import time

import torch
from torch import Tensor

Metrics = dict[str, float]


class Meter:
    """Sums since the last reading."""

    def __init__(self) -> None:
        self.tokens = 0  # read by the model, padding not counted
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, float] = {}
        self._last: Metrics = {}
        self._began = time.monotonic()

    def add(self, name: str, value: Tensor, count: float) -> None:
        """value: a sum over `count` items, detached."""
        self._sums.setdefault(name, []).append(value)
        self._counts[name] = self._counts.get(name, 0.0) + count

    def end_step(self, rate: float, norm: float) -> None:
        """The step's learning rate and gradient norm."""
        self._last = {"learning_rate": rate, "grad_norm": norm}
        self._counts["loss"] = self._counts.get("loss", 0.0) + 1

    def read(self) -> Metrics:
        """Means since the last reading, the last learning rate and gradient norm, and tokens per second."""
        names = list(self._sums)
        totals = torch.stack([torch.stack(self._sums[name]).sum().double().cpu() for name in names]).tolist()
        means = {name: total / self._counts[name] for name, total in zip(names, totals, strict=True)}
        now = time.monotonic()
        speed = self.tokens / max(now - self._began, 1e-9)
        self._sums, self._counts, self.tokens, self._began = {}, {}, 0, now
        return means | self._last | {"tokens_per_second": speed}

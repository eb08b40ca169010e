"""What a training logs. Numbers stay on the device until they are read, so that no step waits for them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.models.precision import in_float64
from self_rewarding_lm_pytorch.training.parts import Part

Metrics = dict[str, float]


@dataclass(frozen=True)
class BadStep:
    """A step whose gradient is not finite."""

    rate: float
    norm: float
    since: int  # steps before the last one


class Meter:
    """Sums since the last reading."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device  # of what is added
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
        sums = [in_float64(torch.stack(self._sums[name]).sum()) for name in names]
        *totals, norm = torch.stack([*sums, in_float64(self._norms[-1])]).tolist()
        means = self._means(dict(zip(names, totals, strict=True)))
        last = {"learning_rate": self._rates[-1], "grad_norm": norm}
        now = time.monotonic()
        speed = self.tokens / max(now - self._began, 1e-9)
        self._sums, self._counts, self.tokens, self._began = {}, {}, 0, now
        self._rates, self._norms = [], []
        return means | last | {"tokens_per_second": speed}

    def _means(self, totals: dict[str, float]) -> Metrics:
        """Over all processes, each of which has read a part."""
        parts = processes.gathered((totals, self._counts))
        found: Metrics = {}
        for name in dict.fromkeys(name for own, _ in parts for name in own):
            # Every process counts every step, so the loss is divided by them once.
            counts = [count.get(name, 0.0) for _, count in parts]
            divisor = counts[0] if name == "loss" else sum(counts)
            found[name] = sum(own.get(name, 0.0) for own, _ in parts) / divisor
        return found

    def state(self) -> Part:
        """What is not yet read, number by number, so that it is added up as it would have been."""
        tensors = {f"sums.{name}": torch.stack(numbers) for name, numbers in self._sums.items()}
        if self._norms:
            tensors["norms"] = torch.stack(self._norms)
        values = {
            "counts": self._counts,
            "rates": self._rates,
            "tokens": self.tokens,
            "seconds": time.monotonic() - self._began,
        }
        parts = processes.gathered((tensors, values))
        named = {
            f"{rank}.{name}": tensor for rank, (own, _) in enumerate(parts) for name, tensor in own.items()
        }
        return Part(named, [own for _, own in parts])

    def resume(self, part: Part) -> None:
        own, values = f"{processes.rank()}.", part.values[processes.rank()]
        rows = {
            name.removeprefix(own): list(row.to(self._device).unbind())
            for name, row in part.tensors.items()
            if name.startswith(own)
        }
        self._norms = rows.pop("norms", [])
        # In the order of the counts: the last line of a log has its names in the order they were added.
        names = [name for name in values["counts"] if f"sums.{name}" in rows]
        self._sums = {name: rows[f"sums.{name}"] for name in names}
        self._counts, self._rates = values["counts"], values["rates"]
        self.tokens = values["tokens"]
        self._began = time.monotonic() - values["seconds"]

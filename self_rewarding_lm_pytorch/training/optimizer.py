"""The optimizers and the learning-rate schedules."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import ConfigError, TrainingError
from self_rewarding_lm_pytorch.registry import unknown_name
from self_rewarding_lm_pytorch.training.settings import TrainSettings

# Ways in which torch computes AdamW that exclude each other.
_IMPLEMENTATIONS = {"fused", "foreach", "capturable", "differentiable"}


def make_optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The stage's optimizer over everything that trains; weight decay on matrices only."""
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise TrainingError(
            "no parameter of the model requires a gradient, so training would change nothing; "
            "call model.requires_grad_(True), or check which adapter is active"
        )
    check_optimizer_arguments(settings)
    arguments = dict(settings.optimizer_kwargs)
    if settings.optimizer == "adamw" and not _IMPLEMENTATIONS & arguments.keys():
        arguments["fused"] = all(p.device.type in ("cpu", "cuda") for p in trained)
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer = OPTIMIZERS[settings.optimizer]()(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        **arguments,
    )
    return optimizer


def skip_if(optimizer: torch.optim.Optimizer, is_bad: Tensor) -> bool:
    """Has the next step leave everything as it is where `is_bad`, without asking the device for its value.

    False where the optimizer cannot: fused ones can, as they do for torch's GradScaler.
    """
    if not optimizer.defaults.get("fused"):
        return False
    optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]
    return True


def check_optimizer_arguments(settings: TrainSettings) -> None:
    """Raises ConfigError for an argument that the optimizer does not take, or that has a key of its own."""
    optimizer = OPTIMIZERS[settings.optimizer]()
    known = set(inspect.signature(optimizer).parameters) - {"params", "lr", "weight_decay"}
    for name in settings.optimizer_kwargs:
        if name not in known:
            raise ConfigError(unknown_name(f"argument of {settings.optimizer}", name, list(known)))


def _adamw_8bit() -> Any:
    try:
        return importlib.import_module("bitsandbytes").optim.AdamW8bit
    except ImportError as error:
        raise ConfigError(
            "optimizer adamw_8bit needs bitsandbytes, which is not installed; run pip install bitsandbytes, "
            "or take adamw"
        ) from error


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adamw": lambda: torch.optim.AdamW,
    "rmsprop": lambda: torch.optim.RMSprop,
    "adamw_8bit": _adamw_8bit,
}


def half_precision_warning(module: nn.Module) -> str | None:
    """What is lost where trainable weights are in half precision, or None."""
    kinds = {p.dtype for p in module.parameters() if p.requires_grad} - {torch.float32, torch.float64}
    if not kinds:
        return None
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
    return (
        f"the weights that train are {names}, in which an update of less than about a 300th of a weight is "
        "rounded away: at the papers' learning rates next to nothing is learned. Keep them float32 and "
        "compute in half precision instead (accelerate: {mixed_precision: bf16})"
    )


def last_rate(settings: TrainSettings, num_steps: int | None) -> float:
    """What the rate has come to after so many steps. None: they are not known, and the schedule ends."""
    total = settings.num_steps or num_steps
    if total is None:
        return settings.learning_rate if settings.schedule == "constant" else _end(settings)
    return learning_rate(settings, total, total)


def learning_rate(settings: TrainSettings, step: int, num_steps: int) -> float:
    """The rate of optimizer step `step` (from 0): warm-up, then the fall to the end rate."""
    peak = settings.learning_rate
    end = _end(settings)
    warmup = settings.warmup_steps or math.ceil(settings.warmup_fraction * num_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    decay_steps = max(1, (settings.num_decay_steps or num_steps) - warmup)
    progress = min(1.0, (step - warmup) / decay_steps)
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "linear":
        return peak + (end - peak) * progress
    return end + (peak - end) * (1 + math.cos(math.pi * progress)) / 2


def _end(settings: TrainSettings) -> float:
    given = settings.end_learning_rate
    return settings.learning_rate / 10 if given is None else given

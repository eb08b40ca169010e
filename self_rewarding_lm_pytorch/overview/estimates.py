"""Memory and disk of a plan's stages, and the warnings that follow from them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.overview.amounts import in_bytes
from self_rewarding_lm_pytorch.overview.disk import Disk, disk_in_all, free_bytes, stage_disk
from self_rewarding_lm_pytorch.overview.memory import (
    Memory,
    Weights,
    activation_bytes,
    cache_bytes,
    optimizer_bytes,
    weight_size,
    weights_of,
)
from self_rewarding_lm_pytorch.overview.model import KnownModel, other_outline
from self_rewarding_lm_pytorch.overview.papers import iterations
from self_rewarding_lm_pytorch.overview.tokens import Tokens
from self_rewarding_lm_pytorch.training.batching import tokens_at_once


@dataclass(frozen=True)
class StageEstimates:
    """Of one stage. memory: on one device; None where the model's shapes are not known."""

    tokens: Tokens
    memory: Memory | None
    disk: Disk

    def as_dict(self) -> dict[str, Any]:
        memory = None if self.memory is None else self.memory.as_dict()
        return {"tokens": self.tokens.as_dict(), "memory": memory, "disk": self.disk.as_dict()}


@dataclass
class Estimates:
    """Of a whole plan. processes: those that the numbers are for."""

    processes: int = 1
    parameters: int | None = None
    trained_parameters: int | None = None
    device: str = "cpu"
    device_bytes: int | None = None  # of a CUDA device of this machine
    free_disk_bytes: int | None = None
    stages: list[StageEstimates] = field(default_factory=list)
    disk_bytes: int = 0  # the most at once, as far as it is known
    disk_is_whole: bool = True  # whether all of it is known

    @property
    def peak(self) -> int | None:
        known = [each.memory.peak for each in self.stages if each.memory is not None]
        return max((peak for peak in known if peak is not None), default=None)

    def as_dict(self) -> dict[str, Any]:
        names = ("processes", "parameters", "trained_parameters", "device", "device_bytes")
        disk = {"disk_bytes": self.disk_bytes, "disk_is_whole": self.disk_is_whole}
        whole = {"memory_peak_bytes": self.peak, **disk, "free_disk_bytes": self.free_disk_bytes}
        return {**{name: getattr(self, name) for name in names}, **whole}

    def warnings(self) -> list[str]:
        """What does not fit."""
        found = []
        if self.peak is not None and self.device_bytes is not None and self.peak > self.device_bytes:
            found.append(
                f"memory: about {in_bytes(self.peak)} on a device of {in_bytes(self.device_bytes)}; "
                "take an adapter, gradient_checkpointing, a smaller generation.token_budget or "
                "micro_batch_tokens, accelerate: {mixed_precision: bf16}, or sharding: full on more devices"
            )
        if self.free_disk_bytes is not None and self.disk_bytes > self.free_disk_bytes:
            found.append(
                f"disk: up to {in_bytes(self.disk_bytes)} are written, {in_bytes(self.free_disk_bytes)} "
                "are free where the run goes; take another folder (run), or fewer checkpoints (keep_last)"
            )
        return found


def begun(plan: Plan, model: KnownModel, processes: int | None) -> tuple[Estimates, Weights | None]:
    """What holds for all stages. processes: None for those that this program was started on."""
    device = _device(plan)
    made = Estimates(
        processes=processes or int(os.environ.get("WORLD_SIZE", "1")),
        device=device.type,
        free_disk_bytes=free_bytes(plan.run),
    )
    if device.type == "cuda":
        made.device_bytes = torch.cuda.get_device_properties(device).total_memory
    if model.outline is None:
        return made, None
    mixed = plan.accelerate.get("mixed_precision")
    weights = weights_of(model.outline, _dtype(plan), adapter=plan.adapter, mixed=mixed)
    made.parameters = model.outline.num_parameters
    made.trained_parameters = sum(torch.Size(shape).numel() for shape in weights.trained.values())
    return made, weights


def add_stage(
    estimates: Estimates,
    plan: Plan,
    stage: Any,
    model: KnownModel,
    weights: Weights | None,
    tokens: Tokens,
    items: int | None,
    steps: int | None,
) -> None:
    """One more stage. items, steps: None where only a run can tell."""
    is_whole = plan.adapter is None or plan.adapter.is_merged
    disk = stage_disk(stage, weights, tokens, items, steps, is_whole=is_whole)
    memory = None if weights is None else _memory(plan, stage, model, weights, tokens, estimates)
    estimates.stages.append(StageEstimates(tokens, memory, disk))
    estimates.disk_is_whole &= disk.checkpoints is not None
    estimates.disk_bytes = disk_in_all([each.disk for each in estimates.stages], plan.keep_last)


def _memory(
    plan: Plan, stage: Any, model: KnownModel, weights: Weights, tokens: Tokens, estimates: Estimates
) -> Memory:
    outline = model.outline
    assert outline is not None
    samples = (
        any(hasattr(stage, name) for name in ("candidates", "opponent")) or stage.kind == "self_instruct"
    )
    own = weight_size(outline, _dtype(plan))
    positions = plan.generation.token_budget
    cache = cache_bytes(outline, positions, own) if samples else 0
    judge = _judge_bytes(plan, stage)
    settings = iterations(stage)
    if not settings:
        return Memory(weights.held, judge=judge, cache=cache)
    train = settings[0]
    longest = tokens.longest or 0
    together = tokens_at_once(train.micro_batch_tokens, torch.device(estimates.device))
    read = max(longest, min(together, tokens.step or together))
    if train.micro_batch_size is not None and longest:
        read = min(read, train.micro_batch_size * longest)
    return Memory(
        weights.held,
        gradients=weights.trained_bytes,
        optimizer=max(optimizer_bytes(weights, each) for each in settings),
        reference=_reference_bytes(stage, train, weights, own * outline.num_parameters),
        judge=judge,
        activations=activation_bytes(
            outline, read, weights.computed, is_recomputed=train.gradient_checkpointing
        ),
        cache=cache,
        copies=weights.copies,
        is_online=stage.kind == "online",
        shards=estimates.processes if plan.sharding == "full" else 1,
    )


def _reference_bytes(stage: Any, train: Any, weights: Weights, whole: int) -> int:
    """A second model: one that moves, or for pairs yet to be made; others are asked once and stored."""
    kind = getattr(train, "reference", "none")
    if kind in ("ema", "refresh"):
        return weights.held
    if stage.kind == "online" and kind in ("stage_start", "initial"):
        return whole if kind == "initial" else weights.held
    return 0


def _judge_bytes(plan: Plan, stage: Any) -> int:
    """Other models that judge, as float32, where they are here."""
    named = (getattr(getattr(stage, part, None), "model", None) for part in ("judge", "meta"))
    outlines = (other_outline(name, plan.base) for name in named if name is not None)
    return sum(4 * outline.num_parameters for outline in outlines if outline is not None)


def _dtype(plan: Plan) -> str:
    """A module from Python stays as it is."""
    return plan.dtype if isinstance(plan.model, str | Path) else "auto"


def _device(plan: Plan) -> torch.device:
    """As the run would choose it, but never an error."""
    is_cuda = plan.device.startswith("cuda") or (plan.device == "auto" and not plan.accelerate.get("cpu"))
    if not (is_cuda and torch.cuda.is_available()):
        return torch.device("cpu")
    number = plan.device.partition(":")[2] or "0"
    return torch.device("cuda", min(int(number), torch.cuda.device_count() - 1))

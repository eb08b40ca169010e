"""How many items a stage has and how many optimizer steps it takes, as far as its plan tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from self_rewarding_lm_pytorch.stages.base import StageConfig
from self_rewarding_lm_pytorch.training.batching import steps_per_epoch
from self_rewarding_lm_pytorch.training.settings import TrainSettings


@dataclass(frozen=True)
class Count:
    """A number of something; None where only a run can tell. is_bound: it is an upper one."""

    number: int | None
    of: str = ""
    is_bound: bool = False

    def __str__(self) -> str:
        if self.number is None:
            return f"? {self.of}".strip()
        return f"{'≤ ' if self.is_bound else ''}{self.number:,} {self.of}".strip()


StageSteps = Count


def stage_steps(stage: StageConfig, rows: Mapping[str, Count]) -> tuple[Count, StageSteps]:
    """Items and steps. rows: how many each data source has."""
    train = getattr(stage, "train", None)
    if train is None:
        return Count(getattr(stage, "num", None), "prompts", is_bound=True), Count(0)
    if stage.kind == "spin":
        return _spin(stage, rows.get("data", Count(None)))
    if "prompts" in rows:
        return _sampled(stage, train, rows["prompts"])
    makes_more = getattr(stage, "judge_data", None) is not None
    given = Count(None) if makes_more or "data" not in rows else rows["data"]
    items = replace(given, of="pairs" if stage.kind == "dpo" else "examples")
    return items, _steps(train, items)


def _sampled(stage: StageConfig, train: Any, prompts: Count) -> tuple[Count, StageSteps]:
    limit = getattr(stage, "num_prompts", None)
    if limit is not None and (prompts.number is None or limit < prompts.number):
        prompts = Count(limit, is_bound=prompts.is_bound or prompts.number is None)
    prompts = replace(prompts, of="prompts")
    if stage.kind == "online":
        return prompts, _steps(train, prompts)
    pairs = Count(getattr(stage, "num_pairs", None) or prompts.number, "pairs", is_bound=True)
    if getattr(stage, "train_judge", False):  # judge pairs come on top, and a run alone can count them
        return pairs, Count(train.num_steps)
    return pairs, _twice(_steps(train, pairs)) if _has_future(stage) else _steps(train, pairs)


def _has_future(stage: Any) -> bool:
    """Whether a temporary next model is trained before the policy is (`temporal`)."""
    return bool(getattr(getattr(stage, "temporal", None), "future", False))


def _twice(steps: Count) -> Count:
    return steps if steps.number is None else replace(steps, number=2 * steps.number)


def _spin(stage: Any, data: Count) -> tuple[Count, StageSteps]:
    total: int | None = 0
    for iteration in range(stage.num_iterations):
        twice = 2 if iteration and stage.mix_previous else 1
        pairs = Count(None if data.number is None else twice * data.number)
        steps = _steps(stage.settings(iteration), pairs).number
        total = None if total is None or steps is None else total + steps
    return replace(data, of="items"), Count(total, is_bound=True)


def _steps(train: TrainSettings, items: Count) -> Count:
    if train.num_steps is not None:
        return Count(train.num_steps)
    if items.number is None:
        return Count(None)
    return Count(train.epochs * steps_per_epoch(items.number, train.batch_size), is_bound=items.is_bound)

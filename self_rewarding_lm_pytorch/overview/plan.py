"""What a plan comes to before anything is loaded: steps, rates, tokens, memory, disk, and its faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.objects import beside
from self_rewarding_lm_pytorch.overview.checks import check_items, check_lengths, check_stage, odd_losses
from self_rewarding_lm_pytorch.overview.estimates import Estimates, add_stage, begun
from self_rewarding_lm_pytorch.overview.model import known_model
from self_rewarding_lm_pytorch.overview.papers import iterations, outside_the_papers
from self_rewarding_lm_pytorch.overview.sources import stage_data
from self_rewarding_lm_pytorch.overview.steps import Count, StageSteps, stage_steps
from self_rewarding_lm_pytorch.overview.tokens import stage_tokens
from self_rewarding_lm_pytorch.overview.whole import check_whole
from self_rewarding_lm_pytorch.stages.base import StageConfig
from self_rewarding_lm_pytorch.stages.prompts import made_by
from self_rewarding_lm_pytorch.training.optimizer import last_rate


@dataclass(frozen=True)
class StageOverview:
    """One stage. steps and items are None where only a run can tell; rates and batch where nothing trains."""

    name: str
    kind: str
    items: Count
    steps: StageSteps
    batch_size: int | None
    learning_rates: tuple[float, ...]  # each iteration's peak; one where they are equal
    end_learning_rates: tuple[float, ...]  # as the peaks, what they fall to
    betas: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "items": self.items.number,
            "items_are": self.items.of,
            "items_at_most": self.items.is_bound,
            "steps": self.steps.number,
            "steps_at_most": self.steps.is_bound,
            "batch_size": self.batch_size,
            "learning_rates": list(self.learning_rates),
            "end_learning_rates": list(self.end_learning_rates),
            "betas": list(self.betas),
        }


@dataclass
class Overview:
    """Of a whole plan. problems: it cannot run. warnings: it can. unseen: what was not looked at, and why.

    read: how its data are read, a line for each file.
    """

    stages: list[StageOverview] = field(default_factory=list)
    estimates: Estimates = field(default_factory=Estimates)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)


def overview(plan: Plan, *, processes: int | None = None) -> Overview:
    """Looks at a plan, its files and names; loads no weights and fetches nothing.

    processes: how many the run is to be started on; None: as many as this program was.
    """
    found = Overview()
    with beside(plan.base):
        _look(plan, processes, found)
    found.warnings += found.estimates.warnings()
    return found


def _look(plan: Plan, processes: int | None, found: Overview) -> None:
    model = known_model(plan, found)
    found.estimates, weights = begun(plan, model, processes)
    check_whole(plan, model, found)
    for number, stage in enumerate(plan.stages, 1):
        where = f"stage {number} ({stage.name})"
        data = stage_data(stage, model.codec, plan.base, where, found)
        shown = _stage(stage, data.rows, found.stages)
        found.stages.append(shown)
        check_stage(stage, plan.stages[: number - 1], where, plan.base, found)
        check_items(data.lengths, model.context, where, found)
        check_lengths(stage, data.lengths.get("prompts"), model, where, found)
        tokens = stage_tokens(stage, data.lengths, shown.items, model.context)
        items = shown.items.number
        add_stage(found.estimates, plan, stage, model, weights, tokens, items, shown.steps.number)
        is_small, has_adapter = plan.was_scaled_by < 1, plan.adapter is not None
        said = outside_the_papers(stage, is_small=is_small, has_adapter=has_adapter)
        found.warnings += [f"{where}: {line}" for line in [*said, *odd_losses(stage)]]


def _stage(stage: StageConfig, rows: dict[str, Count], before: Sequence[StageOverview]) -> StageOverview:
    train = getattr(stage, "train", None)
    maker = made_by(getattr(stage, "prompts", None))
    if maker is not None:
        rows = {**rows, "prompts": next((e.items for e in before if e.name == maker), Count(None))}
    items, steps = stage_steps(stage, rows)
    if train is None:
        return StageOverview(stage.name, stage.kind, items, steps, None, (), (), ())
    settings = iterations(stage)
    betas = dict.fromkeys(each.beta for each in settings if hasattr(each, "beta"))
    rates = tuple(dict.fromkeys(each.learning_rate for each in settings))
    ends = tuple(dict.fromkeys(last_rate(each, steps.number) for each in settings))
    return StageOverview(stage.name, stage.kind, items, steps, train.batch_size, rates, ends, tuple(betas))

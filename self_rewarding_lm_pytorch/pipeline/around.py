"""What a run does around its stages besides training them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.callbacks import Callbacks, RunInfo, StageInfo
from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.model_card import write_card
from self_rewarding_lm_pytorch.plans.checks import named_models
from self_rewarding_lm_pytorch.plans.text import plan_text
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.run_folder import RunFolder
from self_rewarding_lm_pytorch.run_folder.cleaning import Removable, named_in_paths, old_checkpoints, remove
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig
from self_rewarding_lm_pytorch.stages.report_cards import (
    ReportCards,
    around_stages,
    stored_cards,
    summary_rows,
)
from self_rewarding_lm_pytorch.trackers import Trackers

Summary = dict[str, Any]
Evaluate = Callable[[Environment, int], Summary | None]
"""Called after stage `number`; returns a row of the summary's `evaluation`."""
AfterStage = Callable[[Environment, int, StageConfig], None]


@dataclass
class Around:
    """What is called at a run's stages, each after the one above it."""

    after_stage: AfterStage | None
    cards: ReportCards
    evaluate: Evaluate | None
    trackers: Trackers
    callbacks: Callbacks


def stage_info(folder: RunFolder, number: int) -> StageInfo:
    entry = folder.stage(number)
    return StageInfo(number, entry["name"], entry["kind"], folder.stage_folder(number))


def run_info(folder: RunFolder, plan: Mapping[str, Any]) -> RunInfo:
    stages = folder.manifest["stages"]
    infos = tuple(stage_info(folder, number) for number in range(1, len(stages) + 1))
    return RunInfo(folder.path, plan, infos, sum(stage["state"] == "done" for stage in stages))


def stage_ends(
    stage: StageConfig, number: int, folder: RunFolder, env: Environment, around: Around
) -> dict[str, Any]:
    """All that comes between a stage's checkpoint and the note that it is done; what that notes besides."""
    if around.after_stage is not None:
        around.after_stage(env, number, stage)
    around.cards.take(number)
    row = around.evaluate(env, number) if around.evaluate is not None else None
    if processes.is_main():
        with processes.apart():  # what is read for the trackers is read by this one alone
            send_card(number, folder, around.trackers)
            around.trackers.stage_done(folder.stage_folder(number), folder.stage(number)["outcome"], row)
            _write_card(number, folder, env.reporter, row)
    outcomes = [stage["outcome"] for stage in folder.manifest["stages"][:number]]
    entry = around_stages(outcomes, stored_cards(folder.path))[-1]
    around.callbacks.stage_ends(stage_info(folder, number), entry, env.policy.module)
    return {"evaluation": row} if row else {}


def send_card(number: int, folder: RunFolder, trackers: Trackers) -> None:
    """The report card after stage `number` (0: before the first), where there is one, to the trackers."""
    for card in stored_cards(folder.path):
        if card["number"] == number:
            trackers.card(f"{number:02d}", summary_rows([card])[0])


def _write_card(number: int, folder: RunFolder, reporter: Reporter, row: Summary | None) -> None:
    folder.stage(number).get("files", {}).pop("README.md", None)  # an older run may have noted peft's
    try:
        write_card(folder.path, folder.manifest, number, row)
    except Exception as error:
        reporter.warn(
            f"the model card of stage {folder.stage(number)['name']} could not be written: {error!r}"
        )


def make_room(plan: Plan, folder: RunFolder) -> None:
    """Removes the checkpoints that `keep_last` and the stages to come leave over; each is noted before."""
    if plan.keep_last is None:
        return
    stages: list[StageConfig] = plan.stages
    parts = yaml.safe_load(plan_text(plan))
    ahead = [part for n, part in enumerate(parts["stages"], 1) if folder.stage(n)["state"] != "done"]
    needed = {
        *named_models(stages, folder),
        *named_in_paths([parts["report_card"], *ahead], folder.manifest),
    }
    find = partial(old_checkpoints, folder.path, folder.manifest, plan.keep_last, needed)
    found = processes.on_main(find) or []
    for number in sorted({each.stage for each in found}):
        folder.update_stage(number, removed=f"keep_last: {plan.keep_last}")
    processes.on_main(partial(_remove_all, found))


def _remove_all(found: Sequence[Removable]) -> None:
    for each in found:
        remove(each)


def push(plan: Plan, folder: RunFolder, reporter: Reporter) -> None:
    """The last checkpoint to the hub, if the plan says so and it is not there; the run is done either way."""
    wanted = plan.push_to_hub
    if wanted is None or not processes.is_main():
        return
    if folder.manifest.get("pushed", {}).get("repo") == wanted.repo:
        return
    from self_rewarding_lm_pytorch.model_card.push import command, push_folder

    last = folder.stage_folder(len(folder.manifest["stages"])) / "checkpoint"
    try:
        address = push_folder(last, wanted.repo, private=wanted.private)
    except SelfRewardingError as error:
        again = command(last, wanted.repo, wanted.private)
        reporter.warn(f"the run is done, but its model was not pushed: {error}. To push it later: {again}")
        return
    reporter.say(f"pushed {last} to {address}")
    with processes.apart():
        folder.save(pushed={"repo": wanted.repo, "address": address})

"""`run`: a plan's stages in order, whatever comes in between."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from self_rewarding_lm_pytorch import interrupts, processes
from self_rewarding_lm_pytorch.callbacks import Callback, Callbacks
from self_rewarding_lm_pytorch.config import Plan, load_plan
from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.models.of_runs import settled
from self_rewarding_lm_pytorch.objects import beside
from self_rewarding_lm_pytorch.pipeline.around import (
    AfterStage,
    Around,
    Evaluate,
    Summary,
    make_room,
    push,
    run_info,
    send_card,
)
from self_rewarding_lm_pytorch.pipeline.earlier import earlier_models, folders, say_earlier
from self_rewarding_lm_pytorch.pipeline.facts import facts_before_loading, facts_of_model
from self_rewarding_lm_pytorch.pipeline.models import environment, initial_policy, keep_initial, model
from self_rewarding_lm_pytorch.pipeline.silent import Silent
from self_rewarding_lm_pytorch.pipeline.stages import CheckedFolders, run_stage
from self_rewarding_lm_pytorch.plans.checks import check_plan, named_models
from self_rewarding_lm_pytorch.plans.text import plan_text
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.run_folder import RunFolder
from self_rewarding_lm_pytorch.run_folder.contents import refuse_plan_inside
from self_rewarding_lm_pytorch.run_folder.faults import remove_unfinished, said_of, storage_error
from self_rewarding_lm_pytorch.run_folder.lock import locked
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig
from self_rewarding_lm_pytorch.stages.checked_items import CheckedItems
from self_rewarding_lm_pytorch.stages.report_cards import (
    ReportCards,
    StopRun,
    around_stages,
    stored_cards,
    summary_rows,
)
from self_rewarding_lm_pytorch.stages.tracker_settings import check_trackers
from self_rewarding_lm_pytorch.trackers import Trackers
from self_rewarding_lm_pytorch.training.accelerator import make_accelerator
from self_rewarding_lm_pytorch.training.device import check_found

if TYPE_CHECKING:  # half a second to import
    from accelerate import Accelerator


@dataclass(frozen=True)
class _Asked:
    """How a run is to be done, besides its plan."""

    fresh: bool
    allow_changed: bool
    evaluate: Evaluate | None
    after_stage: AfterStage | None
    callbacks: Callbacks


def run(
    plan: Any,
    *,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    allow_changed: bool = False,
    reporter: Reporter | None = None,
    evaluate: Evaluate | None = None,
    after_stage: AfterStage | None = None,
    callbacks: Sequence[Callback] = (),
    accelerator: Accelerator | None = None,
) -> Summary:
    """Runs a plan's stages in order and returns the summary (also in RUN/summary.json).

    plan: a YAML file, a mapping, or a Plan. A run that was cut off is continued; a finished one is
    not run again, its summary is returned. fresh: begin anew, removing what the run wrote before.
    allow_changed: go on although the plan, the model, data, libraries or the like are not what they were
    when the run began; what stages have stored is kept. callbacks: called at stages and steps
    (`callbacks.Callback`). From Python, a module given as the plan's model holds the final weights when this
    returns.

    Raises ConfigError for what cannot be run or has changed, CheckpointError where the run folder is in
    use, damaged or full, interrupts.Interrupted after Ctrl-C or SIGTERM, once what was under way is stored.
    """
    plan = load_plan(plan, overrides)
    refuse_plan_inside(plan.run, plan.base)
    asked = _Asked(fresh, allow_changed, evaluate, after_stage, Callbacks(callbacks))
    check_trackers(plan.trackers)
    if accelerator is None:
        accelerator = make_accelerator(plan.accelerate, plan.device)
    check_found(plan.device, accelerator.device)
    reporter = (reporter or Reporter()) if processes.is_main() else Silent()
    with beside(plan.base), locked(plan.run, reporter), CheckedItems.place(plan.run) as checked:
        folder, text = RunFolder(plan.run), plan_text(plan)
        folder.open(text, plan.seed, [(s.name, s.kind) for s in plan.stages], fresh=fresh)
        if folder.is_finished:
            return _finished(plan, folder, reporter)
        earlier = processes.on_main(partial(earlier_models, plan, folder, text)) or {}
        say_earlier(plan, earlier, reporter)
        with settled(folders(earlier)):
            return _run(plan, folder, accelerator, reporter, asked, checked)


def _run(
    plan: Plan,
    folder: RunFolder,
    accelerator: Accelerator,
    reporter: Reporter,
    asked: _Asked,
    checked: Path,
) -> Summary:
    text = plan_text(plan)
    stages: list[StageConfig] = plan.stages
    facts = facts_before_loading(plan, folder, text, accelerator)
    folder.compare(facts)
    folder.settle(asked.allow_changed, reporter)
    env = environment(plan, reporter, accelerator)
    loaded = facts_of_model(plan, env.policy)
    folder.compare({"models": loaded})
    folder.settle(asked.allow_changed, reporter)
    cards = ReportCards(plan.report_card, stages, folder.path, env)
    for name in folder.redo_missing(named_models(stages, folder)):
        reporter.warn(f"the checkpoint of stage {name} is gone; it is trained again, on what it had stored")
    env.checked = CheckedItems(checked, folder.begun())
    with said_of(folder.path):
        check_plan(stages, env, folder, cards)
    facts["models"] |= loaded
    for name in ("data", "models"):  # of stages that are done, what they read stays noted
        facts[name] = {**folder.manifest.get(name, {}), **facts[name]}
    resolved = yaml.safe_load(text)
    trackers = Trackers(plan.trackers, folder.path, resolved, reporter, accelerator)
    around = Around(asked.after_stage, cards, asked.evaluate, trackers, asked.callbacks)
    with _said_how_it_ended(folder, reporter), closing(trackers):
        folder.begin(**facts)
        keep_initial(plan, folder, env)
        env.load_initial = partial(initial_policy, plan, folder, env)
        env.checkpoints = CheckedFolders(folder)
        with interrupts.deferred():
            trackers.begin()
            asked.callbacks.run_begins(run_info(folder, resolved))
            _run_stages(plan, folder, env, around)
    push(plan, folder, reporter)
    asked.callbacks.run_ends(summary(folder))
    return summary(folder)


def _finished(plan: Plan, folder: RunFolder, reporter: Reporter) -> Summary:
    reporter.say(f"{plan.run} is finished and is not run again; begin anew with --fresh (fresh=True)")
    if not isinstance(plan.model, str | Path):
        number = len(plan.stages)
        last = folder.stage_folder(number) / "checkpoint"
        folder.check(last, folder.stage(number).get("files"))
        model(plan)[0].restore(last)
    with processes.apart():  # each looks for the file, which the main one may have written by then
        _write_summary(folder)  # the run may have been cut off just before it did
    push(plan, folder, reporter)
    return summary(folder)


def _run_stages(plan: Plan, folder: RunFolder, env: Environment, around: Around) -> None:
    around.cards.take(0)
    if processes.is_main():
        send_card(0, folder, around.trackers)
    for number, stage in enumerate(plan.stages, 1):
        was_done = folder.stage(number)["state"] == "done"
        run_stage(stage, number, folder, env, around)
        make_room(plan, folder)
        around.cards.guard(number)
        if number < len(plan.stages) and not was_done:
            interrupts.unit_done()
    folder.save(status="completed")


@contextmanager
def _said_how_it_ended(folder: RunFolder, reporter: Reporter) -> Iterator[None]:
    """The manifest's status and summary.json, however the run ends."""
    try:
        yield
    except KeyboardInterrupt:
        _end(folder, status="interrupted")
        reporter.say(f"interrupted in {_under_way(folder)}; the same command goes on from {folder.path}")
        raise
    except StopRun as error:
        _end(folder, status="stopped", error=str(error))
        raise
    except Exception as error:
        full = storage_error(error, folder.path)
        if full is not None and processes.is_main():
            remove_unfinished(folder.path)
        _end(folder, status="failed", error=str(full or error))
        if full is not None:
            raise full from error
        raise
    with processes.apart():
        _write_summary(folder)


def _end(folder: RunFolder, **values: Any) -> None:
    """Other processes are not waited for, and what cannot be written any more hides no error."""
    if not folder.is_on_disk:
        return
    try:
        with processes.apart():
            folder.save(**values)
            _write_summary(folder)
    except (OSError, ValueError):  # or is no text that a file can hold
        pass


def _under_way(folder: RunFolder) -> str:
    numbered = enumerate(folder.manifest["stages"], 1)
    found = next(((n, stage) for n, stage in numbered if stage["state"] != "done"), None)
    return "the run's end" if found is None else f"stage {found[0]} ({found[1]['name']})"


def _write_summary(folder: RunFolder) -> None:
    path, figures, stored = folder.path / "summary.json", summary(folder), None
    with suppress(OSError, ValueError):  # not there, or damaged: it is made from the manifest alone
        stored = json.loads(path.read_text(encoding="utf-8"))
    if stored != figures:
        write_json(path, figures)


def summary(folder: RunFolder) -> Summary:
    """The stable figures of a run (schema 1)."""
    done = [entry for entry in folder.manifest["stages"] if entry["state"] == "done"]
    figures = {
        "schema": 1,
        "status": folder.manifest["status"],
        "stages": [entry["outcome"] for entry in done],
        "evaluation": [entry["evaluation"] for entry in done if entry.get("evaluation")],
    }
    if cards := stored_cards(folder.path):  # only where the plan asks for them
        figures["stages"] = around_stages(figures["stages"], cards)
        figures["judge"] = summary_rows(cards)
    return figures

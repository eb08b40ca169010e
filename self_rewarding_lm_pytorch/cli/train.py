"""`train PLAN`: run a plan's stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from self_rewarding_lm_pytorch.cli.completion import overrides_from, plans_from
from self_rewarding_lm_pytorch.cli.output import stdout_kept
from self_rewarding_lm_pytorch.cli.talk import LogFile, Quiet, Verbose

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.config import Plan
    from self_rewarding_lm_pytorch.progress import Reporter


def train(
    plan: Annotated[Path, typer.Argument(help="A plan in YAML.", autocompletion=plans_from)],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE in YAML, as stages.second.beta=0.2 or stages.2.beta=0.2. May be repeated.",
            autocompletion=overrides_from,
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of continuing.")] = False,
    allow_changed: Annotated[
        bool,
        typer.Option(
            "--allow-changed",
            help="Go on although the plan, model, data or libraries changed; what is stored is kept.",
        ),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary on standard output, all else on standard error.")
    ] = False,
) -> None:
    """Run a plan, or go on with it where it was cut off."""
    from self_rewarding_lm_pytorch import processes
    from self_rewarding_lm_pytorch.cli.interrupted import interruptible
    from self_rewarding_lm_pytorch.cli.talk import reporter as made_reporter
    from self_rewarding_lm_pytorch.config import load_plan
    from self_rewarding_lm_pytorch.errors import SelfRewardingError
    from self_rewarding_lm_pytorch.pipeline import run
    from self_rewarding_lm_pytorch.stages.report_cards import StopRun

    reporter = made_reporter(quiet=quiet, verbose=verbose, log_file=log_file, stderr=as_json)
    loaded: Plan | None = None
    try:
        with stdout_kept(as_json), interruptible(stderr=as_json):
            loaded = load_plan(plan, overrides or [])
            summary = run(loaded, fresh=fresh, allow_changed=allow_changed, reporter=reporter)
    except StopRun:
        with processes.apart():
            if processes.is_main() and loaded is not None:
                _show_stopped(loaded, reporter, as_json)
        raise
    except SelfRewardingError:
        if processes.is_main() and loaded is not None and any((loaded.run / "stages").glob("*")):
            reporter.say(f"page of what was done: {_page(loaded, reporter) or 'none'}")
        raise
    if not processes.is_main():
        return
    with processes.apart():
        page = _page(loaded, reporter)
    _show(loaded, summary, page, reporter)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))


def _show_stopped(plan: Plan, reporter: Reporter, as_json: bool) -> None:
    from self_rewarding_lm_pytorch.report.alarms import alarm_lines

    reporter.lines(alarm_lines(plan.run), "")
    reporter.say(f"stopped; page: {_page(plan, reporter) or 'none'}")
    if as_json:
        typer.echo((plan.run / "summary.json").read_text(encoding="utf-8"), nl=False)


def _page(plan: Plan, reporter: Reporter) -> Path | None:
    """The run's page; None, with a warning, where it cannot be written: the run is done either way."""
    from self_rewarding_lm_pytorch.report.build import build_report

    try:
        return build_report(plan.run)
    except Exception as error:
        again = f"self-rewarding-lm report {plan.run}"
        reporter.warn(f"the run's page could not be written: {error!r:.300}. To write it later: {again}")
        return None


def _show(plan: Plan, summary: dict[str, Any], page: Path | None, reporter: Reporter) -> None:
    from self_rewarding_lm_pytorch.report.alarms import alarm_lines

    rows = [
        [
            stage["name"],
            stage["kind"],
            f"{stage['num_pairs']:,}",
            f"{stage['tokens_generated']:,}",
            f"{stage['generate_seconds']:.0f} / {stage['judge_seconds']:.0f} / {stage['train_seconds']:.0f}",
            _place(plan.run / stage["checkpoint"]),
        ]
        for stage in summary["stages"]
    ]
    columns = ["stage", "kind", "pairs", "tokens", "seconds: generate / judge / train", "checkpoint"]
    reporter.table(f"{plan.run}: {summary['status']}", columns, rows)
    if "judge" in summary:
        _judge_table(reporter, summary["judge"])
    reporter.lines(alarm_lines(plan.run), "")
    reporter.say(f"summary: {plan.run / 'summary.json'}; page: {page or 'none'}")


def _place(checkpoint: Path) -> str:
    """Where it is, unless `keep_last` or `clean` has removed it."""
    return str(checkpoint) if checkpoint.is_dir() else "removed"


def _judge_table(reporter: Reporter, rows: list[dict[str, Any]]) -> None:
    """How well each model judges, in the key measures."""
    from self_rewarding_lm_pytorch.evaluation.card_text import KEY_METRICS, METRICS, shown

    names = [name for name in KEY_METRICS if any(row.get(name) is not None for row in rows)]
    columns = ["judge", *(METRICS[name].title for name in names)]
    reporter.table(
        "report cards", columns, [[row["model"], *(shown(n, row.get(n)) for n in names)] for row in rows]
    )

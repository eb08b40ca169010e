"""`train PLAN`: run a plan's stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.progress import Reporter


def train(
    plan: Annotated[Path, typer.Argument(help="A plan in YAML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE, for example stages.second.beta=0.2. May be repeated."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of continuing.")] = False,
    allow_changed: Annotated[
        bool,
        typer.Option(
            "--allow-changed",
            help="Go on although the plan, model, data or libraries changed; what is stored is kept.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and the closing table.")] = False,
) -> None:
    """Run a plan: its stages in order, continued where an earlier run was cut off."""
    from self_rewarding_lm_pytorch import processes
    from self_rewarding_lm_pytorch.cli.interrupted import interruptible
    from self_rewarding_lm_pytorch.config import load_plan
    from self_rewarding_lm_pytorch.pipeline import run
    from self_rewarding_lm_pytorch.progress import Reporter
    from self_rewarding_lm_pytorch.report.alarms import alarm_lines
    from self_rewarding_lm_pytorch.report.build import build_report
    from self_rewarding_lm_pytorch.stages.report_cards import StopRun

    reporter = Reporter(quiet=quiet)
    loaded = load_plan(plan, overrides or [])
    try:
        with interruptible():
            summary = run(loaded, fresh=fresh, allow_changed=allow_changed, reporter=reporter)
    except StopRun:
        with processes.apart():
            if processes.is_main():
                reporter.lines(alarm_lines(loaded.run), "")
                reporter.say(f"stopped; page: {build_report(loaded.run)}")
        raise
    if not processes.is_main():
        return
    with processes.apart():
        page = build_report(loaded.run)
    rows = [
        [
            stage["name"],
            stage["kind"],
            f"{stage['num_pairs']:,}",
            f"{stage['tokens_generated']:,}",
            f"{stage['generate_seconds']:.0f} / {stage['judge_seconds']:.0f} / {stage['train_seconds']:.0f}",
            str(loaded.run / stage["checkpoint"]),
        ]
        for stage in summary["stages"]
    ]
    columns = ["stage", "kind", "pairs", "tokens", "seconds: generate / judge / train", "checkpoint"]
    reporter.table(f"{loaded.run}: {summary['status']}", columns, rows)
    if "judge" in summary:
        _judge_table(reporter, summary["judge"])
    reporter.lines(alarm_lines(loaded.run), "")
    reporter.say(f"summary: {loaded.run / 'summary.json'}; page: {page}")


def _judge_table(reporter: Reporter, rows: list[dict[str, Any]]) -> None:
    """How well each model judges, in the key measures."""
    from self_rewarding_lm_pytorch.evaluation.card_text import KEY_METRICS, METRICS, shown

    names = [name for name in KEY_METRICS if any(row.get(name) is not None for row in rows)]
    columns = ["judge", *(METRICS[name].title for name in names)]
    reporter.table(
        "report cards", columns, [[row["model"], *(shown(n, row.get(n)) for n in names)] for row in rows]
    )

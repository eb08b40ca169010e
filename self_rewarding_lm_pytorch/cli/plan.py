"""`plan PLAN`: what a plan comes to, before it is run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from self_rewarding_lm_pytorch.cli.completion import overrides_from, plans_from
from self_rewarding_lm_pytorch.cli.output import echo, stdout_kept

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.overview.plan import Overview


def plan(
    plan: Annotated[Path, typer.Argument(help="A plan in YAML.", autocompletion=plans_from)],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE in YAML, as stages.second.beta=0.2 or stages.2.beta=0.2. May be repeated.",
            autocompletion=overrides_from,
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Estimates are for a run on so many; default: one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check a plan; show its steps, tokens, memory and disk.

    Prints the resolved plan with every default first. No weights are loaded and nothing is fetched.
    Memory and disk are estimates; overview/memory.py and overview/disk.py have the formulas.
    """
    import yaml

    from self_rewarding_lm_pytorch.config import load_plan
    from self_rewarding_lm_pytorch.overview.plan import overview
    from self_rewarding_lm_pytorch.plans.text import plan_text

    with stdout_kept(as_json):  # files that the plan names are run, and may print
        loaded = load_plan(plan, overrides or [])
        found, text = overview(loaded, processes=processes), plan_text(loaded)
    if as_json:
        pairs = zip(found.stages, found.estimates.stages, strict=True)
        shown = {
            "plan": yaml.safe_load(text),
            "stages": [{**stage.as_dict(), **estimates.as_dict()} for stage, estimates in pairs],
            "estimates": found.estimates.as_dict(),
            "read": found.read,
            "problems": found.problems,
            "warnings": found.warnings,
            "unseen": found.unseen,
        }
        echo(json.dumps(shown, indent=2))
    else:
        echo(text)
        _show(found, str(plan))
    if found.problems:
        raise typer.Exit(1)


def _show(found: "Overview", title: str) -> None:
    from self_rewarding_lm_pytorch.overview.shown import estimate_lines, estimate_rows, steps_rows
    from self_rewarding_lm_pytorch.progress import Reporter

    reporter = Reporter()
    reporter.table(title, *steps_rows(found))
    reporter.table("at most, estimated", *estimate_rows(found))
    reporter.lines(estimate_lines(found.estimates), "")
    for what, lines in (
        ("read", found.read),
        ("not looked at", found.unseen),
        ("warning", found.warnings),
        ("problem", found.problems),
    ):
        for line in lines:
            echo(f"{what}: {line}")
    fine = "no problem was found in this plan" + ("; read the warnings" if found.warnings else "")
    echo("this plan cannot be run" if found.problems else fine)

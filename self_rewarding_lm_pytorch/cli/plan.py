"""`plan PLAN`: what a plan comes to, before it is run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from self_rewarding_lm_pytorch.cli.output import echo

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.overview.plan import Overview


def plan(
    plan: Annotated[Path, typer.Argument(help="A plan in YAML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE, for example stages.second.beta=0.2. May be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check a plan and show every number it comes to; no weights are loaded and nothing is fetched."""
    import yaml

    from self_rewarding_lm_pytorch.config import load_plan
    from self_rewarding_lm_pytorch.overview.plan import overview
    from self_rewarding_lm_pytorch.plans.text import plan_text

    loaded = load_plan(plan, overrides or [])
    found, text = overview(loaded), plan_text(loaded)
    if as_json:
        shown = {
            "plan": yaml.safe_load(text),
            "stages": [stage.as_dict() for stage in found.stages],
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
    from self_rewarding_lm_pytorch.progress import Reporter

    rows = [
        [
            str(number),
            stage.name,
            stage.kind,
            str(stage.items),
            str(stage.steps),
            "-" if stage.batch_size is None else f"{stage.batch_size:,}",
            " ".join(f"{rate:g}" for rate in stage.learning_rates) or "-",
            "-" if stage.end_learning_rate is None else f"{stage.end_learning_rate:g}",
            " ".join(f"{beta:g}" for beta in stage.betas) or "-",
        ]
        for number, stage in enumerate(found.stages, 1)
    ]
    columns = ["", "stage", "kind", "from", "steps", "batch", "rate", "to", "beta"]
    Reporter().table(title, columns, rows)
    for what, lines in (
        ("not looked at", found.unseen),
        ("warning", found.warnings),
        ("problem", found.problems),
    ):
        for line in lines:
            echo(f"{what}: {line}")
    echo("this plan cannot be run" if found.problems else "no problem was found in this plan")

"""`self-rewarding-lm` (alias `srlm`): the commands, and how errors reach the terminal."""

from __future__ import annotations

import sys

import typer

from self_rewarding_lm_pytorch import __version__
from self_rewarding_lm_pytorch.cli import (
    demo,
    evaluate,
    export,
    init,
    judge_card,
    plan,
    prepare,
    report,
    train,
)
from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.progress import printable

app = typer.Typer(
    help="A language model answers, judges its own answers, and is trained on its own preferences.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("evaluate")(evaluate.evaluate)
app.command("report-card")(judge_card.report_card)
app.add_typer(prepare.app, name="prepare")


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show it."),
) -> None:
    """Options of all commands."""


def main() -> None:
    """Runs a command; what we raise on purpose is printed as a message, without a traceback."""
    sys.path.insert(0, "")  # a plan's module:factory may stand in the working directory
    try:
        app()
    except SelfRewardingError as error:
        typer.secho(f"error: {printable(str(error))}", err=True, fg=typer.colors.RED)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

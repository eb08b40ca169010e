"""`self-rewarding-lm` (alias `srlm`): the commands, and how errors reach the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from self_rewarding_lm_pytorch import __version__
from self_rewarding_lm_pytorch.cli import (
    chat,
    clean,
    demo,
    evaluate,
    export,
    failures,
    generate,
    init,
    inspect,
    judge,
    judge_card,
    merge,
    pairs,
    plan,
    prepare,
    preview,
    push,
    report,
    schema,
    train,
)

START, RUN, PARTS, LOOK, PREPARE = "Start", "Run", "The parts alone", "Look", "Prepare"

app = typer.Typer(
    help="A language model answers, judges its own answers, and is trained on its own preferences.",
    epilog="New here: self-rewarding-lm demo. Your model and data: self-rewarding-lm init --recipe starter."
    "\n\nExit codes: 0 done, 1 an error, 2 wrong usage, 3 stopped by an alarm or a guard, "
    "130 and 143 interrupted (the same command goes on).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(panel: str, name: str, function: Callable[..., Any], *examples: str, short: str = "") -> None:
    """A command in a panel of the help page, with examples below its own page.

    short: its line in the panel; default: its docstring.
    """
    shown = [f"self-rewarding-lm {name} {example}".rstrip() for example in examples]
    epilog = "\n\n".join(["Examples:", *shown]) if shown else None
    app.command(name, rich_help_panel=panel, epilog=epilog, short_help=short or None)(function)


_add(START, "demo", demo.demo, "", "--seed 1")
_add(START, "init", init.init, "", "--recipe starter --out plan.yaml")
_add(START, "schema", schema.schema, "--out plan.schema.json")

_add(RUN, "plan", plan.plan, "plan.yaml", "plan.yaml --set stages.2.beta=0.2 --json")
_add(
    RUN,
    "train",
    train.train,
    "plan.yaml",
    "plan.yaml --set model=MODEL --set stages.first.num_pairs=100",
    "plan.yaml --quiet --log-file run.log --json > summary.json",
)

_add(
    RUN,
    "clean",
    clean.clean,
    "runs/run --dry-run",
    "runs/run --keep-last 2",
    short="Remove what a run needs no more.",
)
_add(RUN, "push", push.push, "runs/run/stages/02-own/checkpoint me/my-model", short="Upload a model.")
_add(
    RUN,
    "merge",
    merge.merge,
    "runs/run/stages/02-own/checkpoint --out merged",
    short="Write a model with its adapter merged in.",
)

_add(
    PARTS,
    "generate",
    generate.generate,
    "MODEL prompts.jsonl --out candidates.jsonl",
    "runs/run:first prompts.jsonl --out candidates.parquet --num 8 --temperature 1.0",
    short="Sample candidates of prompts.",
)
_add(
    PARTS,
    "judge",
    judge.judge,
    "MODEL candidates.jsonl --out judgments.jsonl --votes 5",
    "candidates.jsonl --out judgments.jsonl --reward rewards.py:score",
    short="Judge responses.",
)
_add(
    PARTS,
    "pairs",
    pairs.pairs,
    "judgments.jsonl --out pairs.jsonl --min-margin 1",
    short="Make preference pairs of judged responses.",
)

_add(
    LOOK,
    "preview",
    preview.preview,
    "seed.jsonl",
    "hub:HuggingFaceH4/ultrafeedback_binarized --split test_prefs --json",
    short="Show how data are read, and the first rows.",
)
_add(
    LOOK,
    "inspect",
    inspect.inspect,
    "MODEL seed.jsonl",
    "MODEL pairs.jsonl --row 3 --json",
    short="Show an example as tokens, and the judge's prompt.",
)
_add(
    LOOK,
    "chat",
    chat.chat,
    "MODEL",
    "runs/run:first --system 'Answer in one line.'",
    short="Talk to a model.",
)
_add(LOOK, "report", report.report, "runs/run", short="Write a run's page, RUN/report.html.")
_add(LOOK, "export", export.export, "runs/run --out pairs", short="Write pairs and judgments as JSON Lines.")
_add(
    LOOK,
    "evaluate",
    evaluate.evaluate,
    "runs/run --prompts held-out.jsonl --judge MODEL",
    "model-a,model-b --prompts held-out.jsonl --reward rewards.py:score",
    short="Compare models' answers: win rates, Elo.",
)
_add(LOOK, "report-card", judge_card.report_card, short="Measure a judge against what people said.")

app.add_typer(prepare.app, name="prepare", rich_help_panel=PREPARE)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Options of all commands."""


def main() -> None:
    """Runs a command; what we raise on purpose is printed as a message, without a traceback."""
    sys.path.insert(0, "")  # a plan's module:factory may stand in the working directory
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(failures.told(error))

"""`init`: a recipe as a plan of one's own, with the schema that line editors read."""

import json
from pathlib import Path
from typing import Annotated

import typer

from self_rewarding_lm_pytorch.cli.completion import recipes_from
from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.errors import ConfigError

SCHEMA = "plan.schema.json"
"""Beside the plan: what the first line of a plan that `init` wrote names."""


def init(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Its name; without it, the recipes are listed.",
            autocompletion=recipes_from,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The plan to write; never one that is there.")] = Path(
        "plan.yaml"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="The list of recipes, for programs.")] = False,
) -> None:
    """Write a commented plan: a starter for your model, or a paper's."""
    from self_rewarding_lm_pytorch.plans.recipe_texts import recipe_text

    if recipe is None:
        _list(as_json)
        return
    text = recipe_text(recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(f"# yaml-language-server: $schema=./{SCHEMA}\n{text}")
    except FileExistsError as error:
        raise ConfigError(
            f"{str(out)!r} exists and is left as it is; name another file (--out), or remove it first"
        ) from error
    _write_schema(out.parent / SCHEMA)
    if as_json:
        echo(json.dumps({"plan": str(out), "schema": str(out.parent / SCHEMA)}))
        return
    echo(f"{out}  (editors complete it by {out.parent / SCHEMA})")
    echo(f"what it comes to: self-rewarding-lm plan {out}")
    small = "scale=0.1 --set run=runs/small" if recipe == "starter" else "scale=0.002 --set run=runs/small"
    echo(f"in small first:   self-rewarding-lm train {out} --set {small}")


def _list(as_json: bool) -> None:
    from self_rewarding_lm_pytorch.plans.recipe_texts import recipe_names, recipe_summary

    names = recipe_names()
    if as_json:
        echo(json.dumps([{"name": name, "summary": recipe_summary(name)} for name in names], indent=2))
        return
    width = max(map(len, names))
    for name in names:
        echo(f"{name:{width}}  {recipe_summary(name)}")
    echo("\nself-rewarding-lm init --recipe NAME --out plan.yaml")


def _write_schema(path: Path) -> None:
    """This version's; an older one is replaced, as nobody writes it by hand."""
    from self_rewarding_lm_pytorch.data.files import write_json
    from self_rewarding_lm_pytorch.overview.schema import plan_schema

    write_json(path, plan_schema())

"""`init`: a recipe as a plan of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.errors import ConfigError


def init(
    recipe: Annotated[str | None, typer.Option(help="Its name; without it, the recipes are listed.")] = None,
    out: Annotated[Path, typer.Option(help="The plan to write; never one that is there.")] = Path(
        "plan.yaml"
    ),
) -> None:
    """Write a paper's recipe as a plan, every number with its source."""
    from self_rewarding_lm_pytorch.plans.recipe_texts import recipe_names, recipe_summary, recipe_text

    if recipe is None:
        width = max(map(len, recipe_names()))
        for name in recipe_names():
            echo(f"{name:{width}}  {recipe_summary(name)}")
        echo("\nself-rewarding-lm init --recipe NAME --out plan.yaml")
        return
    text = recipe_text(recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(
            f"{str(out)!r} exists and is left as it is; name another file (--out), or remove it first"
        ) from error
    echo(f"{out}\nwhat it comes to: self-rewarding-lm plan {out}")
    echo(f"in small first:   self-rewarding-lm train {out} --set scale=0.002")

"""`schema`: what a plan may hold, as JSON Schema, for editors and programs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from self_rewarding_lm_pytorch.cli.output import echo


def schema(
    out: Annotated[Path | None, typer.Option(help="The file to write; without it, it is printed.")] = None,
) -> None:
    """Write the JSON Schema by which editors complete plans."""
    from self_rewarding_lm_pytorch.data.files import write_json
    from self_rewarding_lm_pytorch.errors import ConfigError
    from self_rewarding_lm_pytorch.overview.schema import plan_schema

    if out is None:
        echo(json.dumps(plan_schema(), indent=2))
        return
    if out.exists() and not _is_schema(out):
        raise ConfigError(f"--out {out} is there already and is no schema; name another file, or remove it")
    write_json(out, plan_schema())
    echo(f"{out}  (first line of a plan beside it: # yaml-language-server: $schema=./{out.name})")


def _is_schema(file: Path) -> bool:
    try:
        return "$defs" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False

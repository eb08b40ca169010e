"""How commands print: names, paths and texts may be anybody's."""

from __future__ import annotations

import typer

from self_rewarding_lm_pytorch.progress import printable


def echo(text: object) -> None:
    """The text on standard output; what a terminal would act on, not show, is written out."""
    typer.echo(printable(str(text)))

"""How commands print: names, paths and texts may be anybody's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress

import typer

from self_rewarding_lm_pytorch.progress import printable


def echo(text: object) -> None:
    """The text on standard output; what a terminal would act on, not show, is written out."""
    typer.echo(printable(str(text)))


@contextmanager
def stdout_kept(is_kept: bool = True) -> Iterator[None]:
    """What anybody writes to standard output meanwhile (trackers, a user's own code, child processes) goes to
    standard error, so that a program reads there what it was promised and nothing else."""
    if not is_kept:
        yield
        return
    sys.stdout.flush()
    with redirect_stdout(sys.stderr):
        descriptor = None
        with suppress(OSError, ValueError):  # streams that are no files, as in notebooks
            descriptor = os.dup(1)
            os.dup2(2, 1)
        try:
            yield
        finally:
            if descriptor is not None:
                os.dup2(descriptor, 1)
                os.close(descriptor)

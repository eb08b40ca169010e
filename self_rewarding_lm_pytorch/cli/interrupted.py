"""How a command ends that was asked to end: what to type to go on, and the exit code that shells expect."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def interruptible(*, stderr: bool = False) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the command with 130 and 143, and the command that goes on is printed.

    stderr: on standard error, where standard output is a program's.
    """
    from self_rewarding_lm_pytorch import processes
    from self_rewarding_lm_pytorch.interrupts import Interrupted

    try:
        yield
    except KeyboardInterrupt as error:
        if processes.is_main():
            typer.echo(f"to go on: {command()}", err=stderr)
        raise typer.Exit(error.exit_code if isinstance(error, Interrupted) else 130) from error


def command() -> str:
    """This program's command line, as it would be typed to go on: without beginning afresh."""
    name, *given = sys.argv
    arguments = [argument for argument in given if argument != "--fresh"]
    if name.endswith("__main__.py"):
        return shlex.join(["python", "-m", "self_rewarding_lm_pytorch", *arguments])
    name = name.replace("\\", "/").rpartition("/")[2]
    return shlex.join([name if name not in ("", "-c") else "self-rewarding-lm", *arguments])

"""How a command that failed ends: what is printed, what is logged, and the exit code."""

from __future__ import annotations

import logging
import traceback
from importlib import metadata

import typer

from self_rewarding_lm_pytorch.alarms import StopRun
from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.progress import LOGGER, printable

FAILED, STOPPED = 1, 3


def told(error: Exception) -> int:
    """Says what went wrong on standard error, and returns the exit code.

    What we raise on purpose is its message alone (with --verbose its traceback too); anything else is a fault
    of ours, or of what runs within a run, and keeps its traceback.
    """
    lines = printable("".join(traceback.format_exception(error)))
    if not isinstance(error, SelfRewardingError):
        LOGGER.critical("%s", lines)
        typer.echo(lines, err=True, nl=False)
        typer.secho(_where_to_report(), err=True, fg=typer.colors.RED)
        return FAILED
    LOGGER.error("%s", printable(str(error)))
    if LOGGER.isEnabledFor(logging.DEBUG):
        typer.echo(lines, err=True, nl=False)
    typer.secho(f"error: {printable(str(error))}", err=True, fg=typer.colors.RED)
    return STOPPED if isinstance(error, StopRun) else FAILED


def _where_to_report() -> str:
    """One line; the address is what the installed package names."""
    try:
        named = metadata.metadata("self-rewarding-lm-pytorch").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        named = []
    addresses = dict(entry.partition(", ")[::2] for entry in map(str, named))
    address = addresses.get("Issues") or addresses.get("Repository") or addresses.get("Homepage")
    where = f" at {address}" if address else " to whoever gave you this package"
    return (
        "this error is none that we expected: please report it"
        f"{where}, with the lines above, the plan, and what `self-rewarding-lm --version` says"
    )

"""How much a command says, where, and what it leaves in a log file."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.progress import LOGGER

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.progress import Reporter

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and the closing table.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Also what the libraries underneath say, and errors with tracebacks."
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(help="All that is said, with times, is appended to this file; also with --quiet."),
]

_FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def reporter(
    *, quiet: bool = False, verbose: bool = False, log_file: Path | None = None, stderr: bool = False
) -> Reporter:
    """The reporter of a command, with its logging set up. ConfigError for a file that cannot be written.

    stderr: standard output is left to what a program reads.
    """
    from self_rewarding_lm_pytorch import processes
    from self_rewarding_lm_pytorch.progress import Reporter

    if verbose:
        _be_verbose()
    if log_file is not None and processes.is_main():
        _log_to(log_file, logging.DEBUG if verbose else logging.INFO)
    return Reporter(quiet=quiet, stderr=stderr, logs=True)


def _log_to(path: Path, level: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--log-file {str(path)!r} cannot be written: {error.strerror}; name a file in a folder "
            "that can be written to"
        ) from error
    for old in [each for each in LOGGER.handlers if isinstance(each, logging.FileHandler)]:
        LOGGER.removeHandler(old)
        old.close()
    handler.setFormatter(logging.Formatter(_FORM))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)


def _be_verbose() -> None:
    """The root logger speaks on standard error; the package's own lines are on the terminal already."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info")  # read when transformers is imported
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORM))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False

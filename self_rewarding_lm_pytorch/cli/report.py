"""`report RUN`: write the run's page again."""

from pathlib import Path
from typing import Annotated

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.errors import ConfigError


def report(run_dir: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write RUN/report.html from what is on disk, also for a run that is not finished."""
    from self_rewarding_lm_pytorch.report.build import build_report

    if not run_dir.is_dir():
        raise ConfigError(f"there is no run folder {str(run_dir)!r}; name the folder a run wrote to")
    echo(build_report(run_dir))

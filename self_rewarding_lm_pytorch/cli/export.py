"""`export RUN`: pairs and judgments as JSON Lines that other trainers read."""

from pathlib import Path
from typing import Annotated

import typer

from self_rewarding_lm_pytorch.cli.output import echo


def export(
    run_dir: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the files; default RUN_DIR/export.")] = None,
) -> None:
    """Write each stage's pairs (prompt/chosen/rejected, as TRL reads them) and judgments."""
    from self_rewarding_lm_pytorch.data.export import export_run

    written = export_run(run_dir, out or run_dir / "export")
    if not written:
        echo(f"{run_dir} holds no pairs and no judgments yet, so nothing was written")
    for file in written:
        echo(f"{file.rows:8,} rows  {file.path}" + ("" if file.rows else " (not written)"))
        for reason, count in file.left_out.items():
            echo(f"{count:8,} pairs left out: {reason}")

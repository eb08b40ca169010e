"""`demo`: watch a small model improve itself."""

from pathlib import Path
from typing import Annotated

import typer

from self_rewarding_lm_pytorch.cli.talk import LogFile, Quiet, Verbose, reporter


def demo(
    seed: Annotated[int, typer.Option(help="Of the world, the model and the samples.")] = 0,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where it goes; runs/demo, or runs/demo-SEED for another seed than 0.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of continuing.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Watch a small model improve itself, in minutes on a CPU."""
    from self_rewarding_lm_pytorch import processes
    from self_rewarding_lm_pytorch.cli.interrupted import interruptible
    from self_rewarding_lm_pytorch.demo.main import run_demo
    from self_rewarding_lm_pytorch.report.build import build_report

    folder = run_dir or Path("runs/demo" if seed == 0 else f"runs/demo-{seed}")
    said = reporter(quiet=quiet, verbose=verbose, log_file=log_file)
    with interruptible():
        run_demo(seed=seed, folder=folder, fresh=fresh, reporter=said)
    if processes.is_main():
        with processes.apart():
            typer.echo(f"page: {build_report(folder)}")

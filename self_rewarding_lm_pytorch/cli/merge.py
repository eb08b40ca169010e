"""`merge ADAPTER --out FOLDER`: an adapter in its model's weights, for tools that know no adapters."""

from pathlib import Path
from typing import Annotated

import typer

from self_rewarding_lm_pytorch.cli.output import echo


def merge(
    adapter: Annotated[Path, typer.Argument(help="An adapter's folder: a checkpoint, or what peft wrote.")],
    out: Annotated[Path, typer.Option(help="A new folder for the whole model.")],
    dtype: Annotated[str, typer.Option(help="auto (as the base was saved), float32 or bfloat16.")] = "auto",
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that the base model brings.")] = False,
) -> None:
    """Write the base model with an adapter merged into its weights, as a folder that transformers loads."""
    from self_rewarding_lm_pytorch.data.files import write_folder
    from self_rewarding_lm_pytorch.errors import ConfigError
    from self_rewarding_lm_pytorch.models.adapters_merged import merged_policy

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already, and would be written over; name a new folder")
    policy = merged_policy(adapter, dtype=dtype, trust_remote_code=trust_remote_code)
    write_folder(out, policy.save)
    echo(f"{adapter} is merged into its base model: {out}")

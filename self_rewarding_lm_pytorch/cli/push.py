"""`push CHECKPOINT NAME`: a model to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from self_rewarding_lm_pytorch.cli.output import echo


def push(
    checkpoint: Annotated[Path, typer.Argument(help="RUN/stages/NN-NAME/checkpoint, or a model's folder.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.", metavar="NAME")],
    private: Annotated[
        bool, typer.Option("--private/--public", help="Of a repository that is made now.")
    ] = True,
) -> None:
    """Upload a checkpoint, with its model card, to the Hugging Face hub.

    The token is that of `hf auth login`, or HF_TOKEN's. The hub's address may be changed by HF_ENDPOINT.
    """
    from self_rewarding_lm_pytorch.model_card.push import push_folder

    echo(push_folder(checkpoint, repo, private=private))

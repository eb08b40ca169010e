"""`pairs JUDGMENTS`: preference pairs of judged responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.cli.parts_options import Json, Out, validated

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.stages.pairing import PairingSettings


def pairs(
    judgments: Annotated[
        str,
        typer.Argument(
            metavar="JUDGMENTS", help="What judge wrote, or any rows with a prompt, a response and a score."
        ),
    ],
    out: Out,
    pick: Annotated[
        str,
        typer.Option(
            help="best_worst, or file.py:function of scores (a tensor, NaN for none) that gives two places."
        ),
    ] = "best_worst",
    min_margin: Annotated[float, typer.Option(min=0, help="Points by which chosen must lead.")] = 0.0,
    rho: Annotated[
        float,
        typer.Option(
            min=0, help="Length control: the shortest of the best and the longest of the worst; below 0.5."
        ),
    ] = 0.0,
    unfinished: Annotated[
        Literal["keep", "drop"], typer.Option(help="Responses that were cut off at their budget.")
    ] = "keep",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many responses.")] = None,
    as_json: Json = False,
) -> None:
    """Make a preference pair of each prompt's judged responses, and say why the others give none.

    Each row: prompt, chosen, rejected, both scores; a dpo stage reads it, and so does TRL. OUT.skipped.json
    has every prompt without a pair, with the reason.
    """
    from self_rewarding_lm_pytorch.parts.pairs import pairs as work

    made = work(judgments, _settings(pick, min_margin, rho, unfinished).rule(), out, limit=limit)
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=2))
        return
    echo("\n".join(made.counts.lines()))
    if rho:
        echo(f"lengths were counted in {made.lengths}")
    echo(f"written: {made.out}; without a pair: {made.skipped_file}")


def _settings(pick: str, min_margin: float, rho: float, unfinished: str) -> PairingSettings:
    from self_rewarding_lm_pytorch.objects import load_object
    from self_rewarding_lm_pytorch.stages.pairing import PairingSettings

    values: dict[str, Any] = {"min_margin": min_margin, "rho": rho, "unfinished": unfinished}
    if pick != "best_worst":
        wanted = "a function that takes scores and returns two places, chosen first (or best_worst)"
        values["pick"] = load_object(pick, what="--pick", wanted=wanted)
    settings: PairingSettings = validated(PairingSettings, values)
    return settings

"""Options that the commands of single parts have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from self_rewarding_lm_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings

Out = Annotated[Path, typer.Option(help="The file to write: .jsonl or .parquet.")]
Temperature = Annotated[float, typer.Option(min=0, help="Of the sampling; 0: the likeliest token.")]
TopP = Annotated[
    float | None, typer.Option(help="Default 0.9, unless another filter is given; 1: all tokens.")
]
TopK = Annotated[int | None, typer.Option(min=1, help="Only the so many likeliest tokens.")]
MinP = Annotated[float | None, typer.Option(help="Only tokens so likely, relative to the likeliest.")]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Of an answer. Default: 256, or what the context leaves.")
]
Seed = Annotated[int, typer.Option(help="Of everything drawn.")]
StageAddress = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER:NAME",
        help="Draw what this stage of a run with the same seed draws, for example 2:first.",
    ),
]
Factory = Annotated[
    str | None,
    typer.Option("--model", help="module:factory that builds the model of checkpoints that are weights."),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "auto"] | None,
    typer.Option(help="Of the weights. Default: as the run's plan says, else float32.", show_default=False),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Json = Annotated[
    bool, typer.Option("--json", help="The summary on standard output, all else on standard error.")
]

ALONE = "alone"
"""The stage that addresses name where there is none."""


def seed_of(seed: int, stage: str | None) -> tuple[int | str, ...]:
    """How addresses begin: with a run's seed, and a stage's number and name."""
    if stage is None:
        return (seed, 0, ALONE)
    number, colon, name = stage.partition(":")
    if not colon or not number.isdecimal() or int(number) < 1 or not name:
        raise ConfigError(
            f"--stage {stage!r} must be NUMBER:NAME, a stage's number in its plan, from 1, and its name, for "
            "example 2:first"
        )
    return (seed, int(number), name)


def given_sampling(
    temperature: float, top_p: float | None, top_k: int | None, min_p: float | None
) -> SamplingSettings:
    """Settings of the options, with nucleus sampling at 0.9 where no filter is given."""
    from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings

    given = {"top_p": top_p, "top_k": top_k, "min_p": min_p}
    filters: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    filters = filters or {"top_p": 0.9}
    if filters.get("top_p") == 1:
        filters["top_p"] = None
    settings: SamplingSettings = validated(SamplingSettings, {"temperature": temperature, **filters})
    return settings


def validated(kind: Any, values: Mapping[str, Any]) -> Any:
    """Settings of options, or a ConfigError that names the options that are wrong."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        faults = [_fault(problem) for problem in error.errors()]
        raise ConfigError(f"these options cannot be used: {'; '.join(faults)}") from error


def _fault(problem: Any) -> str:
    said = problem["msg"].removeprefix("Value error, ")
    place = ".".join(map(str, problem["loc"]))
    if not place:
        return str(said)
    return f"--{place.replace('_', '-')} {problem['input']!r:.60}: {said}"


def overrides(given: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE in YAML, as settings; a key with dots is a setting of a setting."""
    import yaml

    values: dict[str, Any] = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {each!r} must be KEY=VALUE, for example votes=5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        *path, last = key.split(".")
        place = values
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return values

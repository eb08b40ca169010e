"""`judge MODEL CANDIDATES`: a judgment of every response of a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.cli.parts_options import (
    Device,
    Dtype,
    Factory,
    Json,
    Out,
    Seed,
    StageAddress,
    overrides,
    seed_of,
    validated,
)
from self_rewarding_lm_pytorch.cli.talk import Quiet
from self_rewarding_lm_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.parts.judges import Seat
    from self_rewarding_lm_pytorch.progress import Reporter
    from self_rewarding_lm_pytorch.stages.judging import JudgeSettings


def judge(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] CANDIDATES",
            help="Who judges, as in generate, unless an option says it; and what generate wrote, or any rows "
            "with a prompt and a response.",
        ),
    ],
    out: Out,
    reward: Annotated[str | None, typer.Option(help="file.py:function judges instead.")] = None,
    reward_model: Annotated[
        str | None, typer.Option(help="A reward model judges instead: a folder, a hub name.")
    ] = None,
    server: Annotated[str | None, typer.Option(help="A served model judges: http://HOST:PORT/v1 .")] = None,
    server_model: Annotated[str | None, typer.Option(help="Its name there.")] = None,
    mode: Annotated[
        Literal["sampled", "expected", "pairwise"] | None, typer.Option(help="How a model judges.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Judge template: a built-in's name, a file, a text.")
    ] = None,
    votes: Annotated[int | None, typer.Option(min=1, help="Of each response. Default: 3.")] = None,
    unparsed: Annotated[
        Literal["drop", "force"] | None, typer.Option(help="Votes without a score. Default: drop.")
    ] = None,
    score_range: Annotated[
        tuple[float, float] | None, typer.Option(help="Lowest and highest score. Default: 0 5.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Of the votes. Default: 0.7.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Of the votes. Default: 0.9; 1: all tokens.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a vote. Default: 256 at most.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of a plan's judge, for example score_pattern=... Repeatable."),
    ] = None,
    reasoning: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="BEGIN END",
            help="Show the judge no reasoning between these, as <think> </think>. Default: as the judging "
            "model's own run does.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many responses.")] = None,
    seed: Seed = 0,
    stage: StageAddress = None,
    factory: Factory = None,
    dtype: Dtype = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge every response of a file; goes on where it was cut off.

    Each row: prompt_index, candidate, prompt, response, score (null where there is none, with the reason),
    and every vote. OUT is there once all rows are, with OUT.settings.json.
    """
    from self_rewarding_lm_pytorch import processes
    from self_rewarding_lm_pytorch.cli.interrupted import interruptible
    from self_rewarding_lm_pytorch.cli.talk import reporter as made_reporter
    from self_rewarding_lm_pytorch.interrupts import deferred
    from self_rewarding_lm_pytorch.parts.judge import judge as work
    from self_rewarding_lm_pytorch.parts.judges import ServedSeat
    from self_rewarding_lm_pytorch.parts.row_file import check_ending
    from self_rewarding_lm_pytorch.text import Reasoning

    check_ending(out)
    model, candidates = _told(sources)
    given: dict[str, Any] = {
        "mode": mode,
        "template": template,
        "votes": votes,
        "unparsed": unparsed,
        "score_range": score_range,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
    }
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values |= {} if top_p is None else {"top_p": None if top_p == 1 else top_p}
    values |= overrides(settings or [])
    names = {"model": model, "reward": reward, "reward_model": reward_model, "server": server}
    reporter = made_reporter(quiet=quiet, stderr=as_json)
    with interruptible(stderr=as_json), deferred():
        marks = None if reasoning is None else Reasoning(*reasoning)
        seat = _seat(names, server_model, values, (seed, stage), (factory, dtype, device), reporter)
        seat = replace(seat, reasoning=marks) if isinstance(seat, ServedSeat) else seat
        made = work(seat, candidates, out, reporter, limit=limit, reasoning=marks)
    if processes.is_main():
        if as_json:
            typer.echo(json.dumps(made.as_dict(), indent=2))
        else:
            echo("\n".join([*made.lines(), f"written: {made.out}"]))


def _told(sources: list[str]) -> tuple[str | None, str]:
    if len(sources) > 2:
        raise typer.BadParameter(
            f"{len(sources)} given; MODEL and CANDIDATES are wanted, or CANDIDATES alone"
        )
    return (sources[0] if len(sources) == 2 else None), sources[-1]


def _seat(
    names: dict[str, str | None],
    server_model: str | None,
    values: dict[str, Any],
    seeds: tuple[int, str | None],
    loading: tuple[str | None, str | None, str],
    reporter: Reporter,
) -> Seat:
    """Who judges. Raises ConfigError where that is said twice, not at all, or beside what has no effect."""
    from self_rewarding_lm_pytorch.parts.judges import ModelSeat, RewardSeat, ServedSeat, only_one
    from self_rewarding_lm_pytorch.parts.models import environment_of, named_model

    only_one(**names)
    factory, dtype, device = loading
    if (name := names["reward"] or names["reward_model"]) is not None:
        if values:
            raise ConfigError(
                f"{', '.join(values)}: these are about a model that writes judgments, and {name} gives "
                "numbers; leave them out"
            )
        return RewardSeat(name, is_model=names["reward_model"] is not None, device=device)
    if (names["server"] is None) != (server_model is None):
        raise ConfigError("a served judge needs both: --server URL and --server-model NAME")
    settings, seed = judge_settings(values, names["server"], server_model), seed_of(*seeds)
    if settings.server is not None:
        return ServedSeat(settings, seed)
    named = named_model(str(names["model"]), factory=factory, dtype=dtype)
    env = environment_of(named, device=device, seed=seeds[0], reporter=reporter)
    return ModelSeat.of(env, named, settings, seed)


def judge_settings(
    values: dict[str, Any], server: str | None = None, model: str | None = None
) -> JudgeSettings:
    """Settings of the options; a template may be a file."""
    from self_rewarding_lm_pytorch.stages.judging import JudgeSettings

    values = dict(values)
    template = values.get("template")
    if isinstance(template, str) and "{{" not in template and Path(template).is_file():
        values["template"] = Path(template).read_text(encoding="utf-8")
    if server is not None:
        values["server"] = {**values.get("server", {}), "url": server, "model": model}
    settings: JudgeSettings = validated(JudgeSettings, values)
    return settings

"""`generate MODEL PROMPTS`: candidates of every prompt, in a file."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.cli.parts_options import (
    Device,
    Dtype,
    Factory,
    Json,
    MaxNewTokens,
    MinP,
    Out,
    Seed,
    StageAddress,
    Temperature,
    TopK,
    TopP,
    given_sampling,
    seed_of,
)
from self_rewarding_lm_pytorch.cli.talk import Quiet


def generate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A folder, hub name, module:factory, run folder or RUN:STAGE."),
    ],
    prompts: Annotated[
        str,
        typer.Argument(metavar="PROMPTS", help="What to answer: a file or hub:NAME#split=..., as in plans."),
    ],
    out: Out,
    num: Annotated[int, typer.Option(min=1, help="Candidates of each prompt.")] = 4,
    temperature: Temperature = 0.7,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    max_new_tokens: MaxNewTokens = None,
    ids: Annotated[bool, typer.Option("--ids", help="Also each response's token ids.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    skip_long: Annotated[
        bool,
        typer.Option("--skip-long", help="Leave out prompts behind which max-new-tokens do not fit."),
    ] = False,
    seed: Seed = 0,
    stage: StageAddress = None,
    factory: Factory = None,
    dtype: Dtype = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Sample every prompt's candidates into a file; goes on where it was cut off.

    Each row: prompt_index, candidate, prompt, response, finish_reason, tokens, key. OUT is there once all
    rows are; until then they are in OUT.partial.jsonl. OUT.settings.json says what they are made by.
    """
    from self_rewarding_lm_pytorch import processes
    from self_rewarding_lm_pytorch.cli.interrupted import interruptible
    from self_rewarding_lm_pytorch.cli.talk import reporter as made_reporter
    from self_rewarding_lm_pytorch.interrupts import deferred
    from self_rewarding_lm_pytorch.parts.generate import Generation
    from self_rewarding_lm_pytorch.parts.generate import generate as work
    from self_rewarding_lm_pytorch.parts.models import environment_of, named_model
    from self_rewarding_lm_pytorch.parts.row_file import check_ending

    check_ending(out)
    sampling = given_sampling(temperature, top_p, top_k, min_p)
    reporter = made_reporter(quiet=quiet, stderr=as_json)
    what = Generation(prompts, num, sampling, max_new_tokens, seed_of(seed, stage), limit, ids, skip_long)
    named = named_model(model, factory=factory, dtype=dtype)
    with interruptible(stderr=as_json), deferred():
        env = environment_of(named, device=device, seed=seed, reporter=reporter)
        made = work(env, named, what, out)
    if processes.is_main():
        _show(made, as_json)


def _show(made: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=2))
        return
    endings = ", ".join(f"{count:,} ended by {reason}" for reason, count in made.finish_reasons.items())
    echo(
        f"{made.candidates:,} candidates of {made.prompts:,} prompts, {made.tokens:,} tokens ({endings}): "
        f"{made.out}"
    )
    if made.skipped_prompts:
        echo(f"{made.skipped_prompts:,} prompts were left out, as too long")

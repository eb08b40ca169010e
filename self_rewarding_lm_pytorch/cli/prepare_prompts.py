"""`prepare prompts MODEL SEEDS`: new prompts from seed prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.stages.prompt_settings import PromptSettings


def prompts(
    model: Annotated[str, typer.Argument(help="A folder, a hub name or module:factory; it writes them.")],
    seeds: Annotated[
        Path, typer.Argument(help="Prompts by people: JSON Lines, JSON, CSV, TSV, Parquet or text.")
    ],
    out: Annotated[Path, typer.Option(help="The new prompts, JSON Lines of {prompt}.")],
    num: Annotated[int, typer.Option(help="New prompts wanted.", min=1)],
    evaluation_set: Annotated[
        list[Path] | None,
        typer.Option(help="Prompts that none may come too near. May be repeated."),
    ] = None,
    shots: Annotated[int, typer.Option(help="Prompts shown in each attempt.", min=1)] = 8,
    generated_shots: Annotated[int, typer.Option(help="Of them, new ones.", min=0)] = 2,
    temperature: Annotated[float, typer.Option(min=0)] = 0.6,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 0.9,
    max_new_tokens: Annotated[int | None, typer.Option(help="For each attempt.", min=1)] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Default: 8 × num.", min=1)] = None,
    similarity: Annotated[str, typer.Option(help="rouge_l, or minhash for very many.")] = "rouge_l",
    threshold: Annotated[float, typer.Option(help="Dropped from here on.", min=0, max=1)] = 0.7,
    template: Annotated[Path | None, typer.Option(help="A jinja2 file that shows {{ shots }}.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings.")] = False,
) -> None:
    """Write new prompts in the manner of SEEDS and filter them; goes on where it was cut off.

    Beside OUT: OUT's name with .yield.json and .contamination.json, and the folder .attempts, which holds
    what was written; delete it to begin anew.
    """
    from pydantic import ValidationError

    from self_rewarding_lm_pytorch.errors import ConfigError
    from self_rewarding_lm_pytorch.stages.prompt_settings import PromptSettings

    settings = {
        "seeds": seeds,
        "num": num,
        "evaluation_sets": evaluation_set or [],
        "shots": shots,
        "generated_shots": min(generated_shots, shots),
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": max_new_tokens,
        "max_attempts": max_attempts,
        "similarity": similarity,
        "threshold": threshold,
        "template": None if template is None else str(template),
    }
    try:
        checked = PromptSettings.model_validate(settings)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigError(f"these options cannot be used: {faults}") from error
    _make(model, checked, out, seed, quiet=quiet)


def _make(model: str, settings: PromptSettings, out: Path, seed: int, *, quiet: bool) -> None:
    from self_rewarding_lm_pytorch.errors import ConfigError
    from self_rewarding_lm_pytorch.models.load import load_policy
    from self_rewarding_lm_pytorch.progress import Reporter
    from self_rewarding_lm_pytorch.stages.base import Environment
    from self_rewarding_lm_pytorch.stages.prompt_settings import policy_writer, write_made
    from self_rewarding_lm_pytorch.training.accelerator import make_accelerator

    reporter = Reporter(quiet=quiet)
    source = settings.source()
    settings.few_shot()  # a fault in it is told before the model is loaded
    policy, codec = load_policy(model)
    if codec is None:
        raise ConfigError(f"model {model!r} has no tokenizer, so it can write no text; give one that has")
    accelerator = make_accelerator({})
    policy.module.to(accelerator.device).eval()
    env = Environment(policy, codec, seed, accelerator, reporter)
    writer, context = policy_writer(env, policy, codec, settings.sampling())
    made = settings.make(
        writer,
        settings.recipe(context, env.generation.shard_size),
        source,
        out.with_suffix(".attempts"),
        seed=(seed, "prepare prompts"),
        made_by=model,
        base=None,
        reporter=reporter,
    )
    counts, contamination = out.with_suffix(".yield.json"), out.with_suffix(".contamination.json")
    write_made(made, out, counts, contamination)
    for row in made.contamination:
        reporter.say(
            f"{row['set']}: {row['new_too_near']:,} new prompts and {row['seeds_too_near']:,} seeds are too "
            f"near its {row['size']:,} prompts"
        )
    reporter.say(f"{len(made.prompts):,} prompts: {out}; yield: {counts}; contamination: {contamination}")

"""`prepare`: seed data, made before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from self_rewarding_lm_pytorch.cli import prepare_prompts
from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.stages.base import Environment
    from self_rewarding_lm_pytorch.stages.judge_data import JudgeDataSettings

app = typer.Typer(help="Make seed data: judgments to train a judge on, new prompts.", no_args_is_help=True)


@app.command("judge-data")
def judge_data(
    model: Annotated[str, typer.Argument(help="Who writes the judgments: folder, hub name, module:factory.")],
    data: Annotated[Path, typer.Argument(help="Responses that people judged: scores, ranks, pairs, oasst.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("judge-data"),
    held_out: Annotated[float, typer.Option(help="Share of the prompts set aside to measure on.")] = 0.25,
    votes: Annotated[int, typer.Option(help="Judgments written of each response.")] = 3,
    votes_per_response: Annotated[int, typer.Option(help="Judgments kept of each response.")] = 1,
    template: Annotated[
        str, typer.Option(help="Judge template: a built-in's name, a file, a text.")
    ] = "auto",
    temperature: Annotated[float, typer.Option(help="Of the judge's sampling.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Of the judge's sampling; 1: all tokens.")] = 0.9,
    max_new_tokens: Annotated[int | None, typer.Option(help="Of a judgment. Default: 256 at most.")] = None,
    agree: Annotated[str, typer.Option(help="With people's order, or exact: with their ratings.")] = "order",
    max_share: Annotated[float, typer.Option(help="Of the examples, that one score may be.")] = 0.35,
    lang: Annotated[str, typer.Option(help="Of Open Assistant's messages; any: all.")] = "en",
    without: Annotated[
        Path | None, typer.Option(help="A file of prompts not to judge, as the sft data.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many prompts.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and the closing lines.")] = False,
) -> None:
    """Let a model judge responses that people judged, and keep its judgments that agree with them.

    Writes judge-data.jsonl (for an sft stage), held-out.jsonl (to measure the judge on) and counts.json. The
    same command goes on where it was cut off; with other settings it asks for another folder.
    """
    from self_rewarding_lm_pytorch.stages.judge_data import EXAMPLES, HELD_OUT

    judge: dict[str, Any] = {
        "template": Path(template).read_text(encoding="utf-8") if _is_file(template) else template,
        "votes": votes,
        "temperature": temperature,
        "top_p": None if top_p == 1 else top_p,
        "max_new_tokens": max_new_tokens,
    }
    settings = _settings(
        data=data,
        judge=judge,
        held_out=held_out,
        agree=agree,
        max_share=max_share,
        votes_per_response=votes_per_response,
        lang=None if lang == "any" else lang,
        without=without,
        num_prompts=limit,
    )
    env = _environment(model, seed, quiet)
    settings.check(env, "judge-data")
    _claim(out, settings, model, seed)
    made = settings.make(env, "judge-data", out, (seed, 0, "judge-data"), counts_file="counts.json")
    echo("\n".join(made.counts.lines()))
    echo(f"{len(made.examples):8,} examples  {out / EXAMPLES}")
    if made.held_out:
        echo(f"{len(made.held_out):8,} prompts   {out / HELD_OUT}")


# `prepare prompts` is registered below this line, by its own file's function.
app.command("prompts")(prepare_prompts.prompts)


def _is_file(template: str) -> bool:
    return "{{" not in template and Path(template).is_file()


def _settings(**values: Any) -> JudgeDataSettings:
    """Checked options; what is wrong with one is said by its name on the command line."""
    from pydantic import ValidationError

    from self_rewarding_lm_pytorch.stages.judge_data import JudgeDataSettings

    try:
        return JudgeDataSettings.model_validate(values)
    except ValidationError as error:
        names = {"num_prompts": "limit"}
        lines = [
            f"--{names.get(str(problem['loc'][-1]), str(problem['loc'][-1])).replace('_', '-')} "
            f"{problem['input']!r:.60}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ConfigError("the options cannot be used: " + "; ".join(lines)) from error


def _environment(model: str, seed: int, quiet: bool) -> Environment:
    from self_rewarding_lm_pytorch.models.load import load_policy
    from self_rewarding_lm_pytorch.progress import Reporter
    from self_rewarding_lm_pytorch.stages.base import Environment
    from self_rewarding_lm_pytorch.training.accelerator import make_accelerator

    policy, codec = load_policy(model)
    accelerator = make_accelerator({})
    policy.module.to(accelerator.device).eval()
    return Environment(policy, codec, seed, accelerator, Reporter(quiet=quiet))


def _claim(out: Path, settings: JudgeDataSettings, model: str, seed: int) -> None:
    """The folder is for these settings and this data; ConfigError where it already is for others."""
    from self_rewarding_lm_pytorch.data.files import write_json
    from self_rewarding_lm_pytorch.data.readers import file_hashes

    wanted = {"model": model, "seed": seed, **settings.model_dump(mode="json")}
    wanted |= {"data": file_hashes(settings.data), "without": file_hashes(settings.without)}
    path = out / "settings.json"
    if not path.exists():
        write_json(path, wanted)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in wanted if before.get(name) != wanted[name]]
    if changed:
        raise ConfigError(
            f"{out} holds judge data made with other settings ({', '.join(changed)} differ; see {path}). "
            "Going on would mix the two: take the old settings back, or name another folder with --out"
        )

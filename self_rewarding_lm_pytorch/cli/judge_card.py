"""`report-card JUDGE DATA`: how well a model or a function judges responses that people have judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.evaluation.report_card import ReportCard
    from self_rewarding_lm_pytorch.records import JudgedPrompt

Option = typer.Option


def report_card(
    judge: Annotated[
        str,
        typer.Argument(help="A model (folder, hub name, or its name at --server-url) or file.py:function."),
    ],
    data: Annotated[str, typer.Argument(help="Judged responses: scores, ranks, pairs, Open Assistant.")],
    server_url: Annotated[str | None, Option(help="Where JUDGE is served: http://HOST:PORT/v1 .")] = None,
    server_key: Annotated[
        str, Option(help="The environment variable that holds its key; none: it needs no key.")
    ] = "OPENAI_API_KEY",
    mode: Annotated[str, Option(help="How a model judges: sampled, expected or pairwise.")] = "sampled",
    template: Annotated[str | None, Option(help="A built-in's name, a file, or a text.")] = None,
    votes: Annotated[int | None, Option(help="Sampled votes of each response. Default 3.")] = None,
    temperature: Annotated[float | None, Option(help="Of sampled votes. Default 0.7.")] = None,
    max_new_tokens: Annotated[int | None, Option(help="Of a sampled vote. Default 256 at most.")] = None,
    unparsed: Annotated[str | None, Option(help="drop, or force a score. Default drop.")] = None,
    score_range: Annotated[
        tuple[float, float] | None,
        Option(help="Lowest and highest point. A model's default is 0 5; a function's points are its own."),
    ] = None,
    num: Annotated[int | None, Option(min=1, help="Only the first so many prompts.")] = None,
    lang: Annotated[str, Option(help="Of Open Assistant's messages; any: all.")] = "en",
    probes: Annotated[bool, Option(help="Judge up to 100 padded responses as well.")] = True,
    pad: Annotated[str | None, Option(help="What pads them. Default: their last sentence again.")] = None,
    seed: Annotated[int, Option(help="Of votes and intervals.")] = 0,
    device: Annotated[str, Option(help="Of a model: auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, Option("--json", help="Print the card as JSON and nothing else.")] = False,
) -> None:
    """Print a judge's report card: agreement, parse rate, calibration and leanings, with intervals."""
    from self_rewarding_lm_pytorch.data.judged import judged_prompts

    judged = judged_prompts(data, lang=None if lang == "any" else lang)[:num]
    rest: dict[str, Any] = {"probes": probes, "pad": pad, "seed": seed}
    if ".py:" in judge and server_url is None:
        given = {
            "template": template,
            "votes": votes,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "unparsed": unparsed,
            "mode": None if mode == "sampled" else mode,
        }
        if useless := [name for name, value in given.items() if value is not None]:
            raise ConfigError(
                f"{judge} is a function, so --{useless[0].replace('_', '-')} has no effect; leave it out"
            )
        card = _of_function(judge, judged, score_range, **rest)
    else:
        is_file = template is not None and "{{" not in template and Path(template).is_file()
        settings = {
            "mode": mode,
            "template": Path(str(template)).read_text(encoding="utf-8") if is_file else template,
            "votes": votes,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "unparsed": unparsed,
            "score_range": score_range,
            "server": _server(judge, server_url, server_key),
        }
        card = _of_model(judge, judged, settings, quiet=as_json, device=device, **rest)
    echo(json.dumps(card.as_dict(), indent=2, ensure_ascii=False) if as_json else "\n".join(card.lines()))


def _server(model: str, url: str | None, key: str) -> dict[str, Any] | None:
    if url is None:
        return None
    return {"url": url, "model": model, "api_key_env": None if key == "none" else key}


def _of_function(
    name: str,
    judged: list[JudgedPrompt],
    score_range: tuple[float, float] | None,
    *,
    probes: bool,
    pad: str | None,
    seed: int,
) -> ReportCard:
    from self_rewarding_lm_pytorch.evaluation.report_card import report_card
    from self_rewarding_lm_pytorch.evaluation.twins import NUM_TWINS
    from self_rewarding_lm_pytorch.judges.function import FunctionJudge, load_reward_function
    from self_rewarding_lm_pytorch.stages.card_judge import scale_between

    function = FunctionJudge(load_reward_function(name))
    scale = None if score_range is None else scale_between(*score_range)
    num_probes = NUM_TWINS if probes else 0
    return report_card(
        function, judged, scale=scale, num_probes=num_probes, pad=pad, seed=(seed, "report_card")
    )


def _of_model(
    name: str,
    judged: list[JudgedPrompt],
    settings: dict[str, Any],
    *,
    quiet: bool,
    device: str,
    probes: bool,
    pad: str | None,
    seed: int,
) -> ReportCard:
    from pydantic import ValidationError

    from self_rewarding_lm_pytorch.evaluation.twins import NUM_TWINS
    from self_rewarding_lm_pytorch.parts.models import environment_of, named_model
    from self_rewarding_lm_pytorch.progress import Reporter
    from self_rewarding_lm_pytorch.stages.card_judge import card_of, served_card
    from self_rewarding_lm_pytorch.stages.judging import JudgeSettings

    try:
        given = {key: value for key, value in settings.items() if value is not None}
        judge = JudgeSettings.model_validate(given)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"the judge cannot be made as asked: {problems}") from error
    reporter = Reporter(quiet=quiet)
    if judge.server is not None:
        return served_card(
            judge,
            judge.server,
            judged,
            codec=None,
            reporter=reporter,
            seed=seed,
            num_probes=NUM_TWINS if probes else 0,
            pad=pad,
        )
    env = environment_of(named_model(name), device=device, seed=seed, reporter=reporter)
    return card_of(judge, env, judged, name=name, num_probes=NUM_TWINS if probes else 0, pad=pad)

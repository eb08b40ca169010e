"""`evaluate RUN` or `evaluate MODEL,MODEL`: whose answers are preferred."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.cli.parts_options import Device, Dtype, Factory
from self_rewarding_lm_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from self_rewarding_lm_pytorch.cli.evaluate_models import Contestant
    from self_rewarding_lm_pytorch.cli.evaluate_work import Arbiter
    from self_rewarding_lm_pytorch.evaluation.tournament import Tournament
    from self_rewarding_lm_pytorch.progress import Reporter


def evaluate(
    models: Annotated[
        str, typer.Argument(help="A run folder (its stages), or MODEL,MODEL: folders, hub names.")
    ],
    prompts: Annotated[Path, typer.Option(help="What they answer; nothing they were trained on.")],
    judge: Annotated[
        str | None, typer.Option(help="The judging model: a folder, a hub name, or one of those compared.")
    ] = None,
    judge_mode: Annotated[
        Literal["pairwise", "sampled", "expected"], typer.Option(help="How it judges, as in a plan.")
    ] = "pairwise",
    judge_set: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE of a plan's judge, for example votes=5. May be repeated."),
    ] = None,
    reward: Annotated[str | None, typer.Option(help="file.py:function judges instead.")] = None,
    reward_model: Annotated[
        str | None, typer.Option(help="A reward model judges instead: a folder, a hub name.")
    ] = None,
    server_url: Annotated[str | None, typer.Option(help="A served judge: http://HOST:PORT/v1 .")] = None,
    server_model: Annotated[str | None, typer.Option(help="Its name there.")] = None,
    num: Annotated[int, typer.Option(min=1, help="Only the first so many prompts.")] = 200,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer. Default: 256 at most.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of the answers.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Of the answers; 1: all tokens.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    baseline: Annotated[
        str | None, typer.Option(help="Whom all are measured against. Default: the first.")
    ] = None,
    pairs: Annotated[
        Literal["auto", "all", "chain"],
        typer.Option(
            help="Each two; or each with the one before and the baseline; auto: all up to 6 models."
        ),
    ] = "auto",
    tie_margin: Annotated[float, typer.Option(min=0, help="Points by which two scores must differ.")] = 0.0,
    initial: Annotated[bool, typer.Option("--initial", help="Also the model as the run began.")] = False,
    factory: Factory = None,
    dtype: Dtype = None,
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder. Default: RUN/evaluation/head-to-head, or head-to-head.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and the tables.")] = False,
) -> None:
    """Compare models' answers: win rates with intervals, also at equal length, and Elo ratings.

    Answers and verdicts are kept in the folder and used again while what they depend on is the same. The
    folder also holds each model's outputs and annotations, and a leaderboard, as AlpacaEval reads them.
    """
    from self_rewarding_lm_pytorch.cli.evaluate_models import contestants
    from self_rewarding_lm_pytorch.cli.evaluate_work import Evaluation, validated
    from self_rewarding_lm_pytorch.data.columns import prompt_of
    from self_rewarding_lm_pytorch.data.made import each_made
    from self_rewarding_lm_pytorch.evaluation.tournament import pairings
    from self_rewarding_lm_pytorch.parts.rows import plain
    from self_rewarding_lm_pytorch.progress import Reporter
    from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings

    reporter = Reporter(quiet=quiet)
    found = contestants(models, factory=factory, dtype=dtype, is_initial_wanted=initial)
    names = [each.name for each in found]
    if baseline is not None and baseline not in names:
        raise ConfigError(f"--baseline {baseline!r} is none of the models compared: {', '.join(names)}")
    server = {"url": server_url, "model": server_model}
    rewards = {"reward": reward, "reward_model": reward_model}
    arbiter = _arbiter(judge, rewards, server, judge_mode, judge_set or [], found, (factory, dtype, device))
    work = Evaluation(
        prompts=[plain(asked) for asked in islice(each_made(prompts, prompt_of), num)],
        models=found,
        arbiter=arbiter,
        sampling=validated(
            "the sampling",
            SamplingSettings,
            {"temperature": temperature, "top_p": None if top_p == 1 else top_p},
        ),
        max_new_tokens=max_new_tokens,
        seed=seed,
        folder=out or _default_folder(models),
        baseline=baseline or names[0],
        dataset=prompts.stem,
        reporter=reporter,
        tie_margin=tie_margin,
        device=device,
    )
    show(work.run(pairings(names, work.baseline, pairs)), arbiter.name, reporter)
    echo(f"written: {work.folder}")


def _arbiter(
    judge: str | None,
    rewards: dict[str, str | None],
    server: dict[str, str | None],
    mode: str,
    further: Sequence[str],
    models: Sequence[Contestant],
    loading: tuple[str | None, str | None, str],
) -> Arbiter:
    from self_rewarding_lm_pytorch.cli.evaluate_models import Contestant
    from self_rewarding_lm_pytorch.cli.evaluate_work import Arbiter, validated
    from self_rewarding_lm_pytorch.parts.models import named_model
    from self_rewarding_lm_pytorch.stages.judging import JudgeSettings

    factory, dtype, device = loading
    is_served = any(value is not None for value in server.values())
    named = {kind: name for kind, name in rewards.items() if name is not None}
    if (judge is not None) + len(named) + is_served != 1:
        raise ConfigError(
            "who judges must be said once: --judge MODEL, --reward file.py:function, --reward-model MODEL, "
            "or --server-url with --server-model"
        )
    for kind, name in named.items():
        return _of_reward(kind, name, further, device)
    values = {"mode": mode, **_overrides(further)}
    if is_served:
        settings = validated("the judge", JudgeSettings, {**values, "server": server})
        described = settings.model_dump(mode="json")
        return Arbiter(settings, None, None, str(server["model"]), described)
    assert judge is not None
    settings = validated("the judge", JudgeSettings, values)
    own = next((each for each in models if each.name == judge), None)
    own = own or Contestant(judge, named_model(judge, factory=factory, dtype=dtype))
    identity = {"model": own.identity, "settings": settings.model_dump(mode="json")}
    return Arbiter(settings, None, own.model, judge, identity)


def _of_reward(kind: str, name: str, further: Sequence[str], device: str) -> Arbiter:
    from self_rewarding_lm_pytorch.cli.evaluate_work import Arbiter
    from self_rewarding_lm_pytorch.judges.function import FunctionJudge, load_reward_function
    from self_rewarding_lm_pytorch.judges.text_reward import TextRewardJudge
    from self_rewarding_lm_pytorch.training.accelerator import make_accelerator

    if further:
        raise ConfigError(f"--judge-set is about a model that writes judgments, and {name} gives numbers")
    if kind == "reward":
        function = load_reward_function(name)
        return Arbiter(
            None, lambda: FunctionJudge(function), None, name, {kind: name, "file": _content(name)}
        )

    def loaded() -> TextRewardJudge:
        return TextRewardJudge.load(name, device=make_accelerator({}, device).device)

    return Arbiter(None, loaded, None, name, {kind: name})


def _overrides(given: Sequence[str]) -> dict[str, Any]:
    import yaml

    values = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not equals:
            raise ConfigError(f"--judge-set {each!r} must be KEY=VALUE")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key] = text
    return values


def _content(reward: str) -> str:
    """A reward function's file may change under its name."""
    path = Path(reward.rpartition(":")[0])
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _default_folder(models: str) -> Path:
    from self_rewarding_lm_pytorch.models.of_runs import is_run

    run = Path(models)
    return run / "evaluation" / "head-to-head" if is_run(run) else Path("head-to-head")


def show(result: Tournament, judge: str, reporter: Reporter) -> None:
    """Both tables."""
    rows = []
    for row in result.win_rates:
        counts = f"{row.wins} / {row.ties} / {row.losses}"
        lengths = f"{row.first_lengths.characters:.0f} / {row.second_lengths.characters:.0f}"
        figures = _figure(row.win_rate), _figure(row.length_controlled)
        rows.append([row.first, row.second, *figures, counts, str(row.unjudged), lengths])
    columns = ["model", "against", "win %", "at equal length %", "win / tie / loss", "unjudged", "characters"]
    reporter.table(f"judge: {judge}", columns, rows)
    ranked = sorted(result.ratings, key=lambda row: (row.group, -(row.elo.value or 0.0)))
    held = any(row.is_held for row in ranked)
    title = "Bradley-Terry" + (
        " (with half a tied game between those who met: somebody won everything)" * held
    )
    reporter.table(title, ["model", "Elo"], [[row.name, _figure(row.elo, 0)] for row in ranked])
    if any(row.group for row in ranked):
        reporter.warn("some models met no others, not even through others, so their Elo cannot be compared")
    for row in result.win_rates:
        if row.length_note:
            reporter.say(f"{row.first} against {row.second}, at equal length: {row.length_note}")
        for reason, count in row.reasons.items():
            reporter.say(f"{row.first} against {row.second}: {count} without a verdict: {reason}")


def _figure(metric: Any, digits: int = 1) -> str:
    if metric.value is None:
        return "-"
    interval = "" if metric.low is None else f" ({metric.low:.{digits}f} to {metric.high:.{digits}f})"
    return f"{metric.value:.{digits}f}{interval}"

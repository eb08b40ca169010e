"""What of a stage can be told to be wrong, or odd, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self_rewarding_lm_pytorch.errors import ConfigError, SelfRewardingError
from self_rewarding_lm_pytorch.judges.function import load_reward_function
from self_rewarding_lm_pytorch.models.adapters import is_path
from self_rewarding_lm_pytorch.models.of_runs import model_source
from self_rewarding_lm_pytorch.objects import folder_near
from self_rewarding_lm_pytorch.overview.lengths import Lengths
from self_rewarding_lm_pytorch.overview.model import KnownModel, missing_folder
from self_rewarding_lm_pytorch.plans.checks import check_past_models
from self_rewarding_lm_pytorch.stages.base import StageConfig
from self_rewarding_lm_pytorch.stages.budgets import (
    DEFAULT_JUDGMENT,
    DEFAULT_RESPONSE,
    judged_budgets,
    response_budget,
)
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.training.optimizer import check_optimizer_arguments
from self_rewarding_lm_pytorch.training.settings import PreferenceSettings, TrainSettings

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.overview.plan import Overview

_PER_TOKEN = ("sigmoid_norm", "simpo")  # losses of mean log-probs whose beta scales a margin


def check_stage(
    stage: StageConfig, before: Sequence[StageConfig], where: str, base: Path | None, found: Overview
) -> None:
    """Names, optimizer, judge and reward of a stage; problems are put into `found`."""
    train, judge, reward = (getattr(stage, name, None) for name in ("train", "judge", "reward"))
    checks: list[Callable[[], object]] = [partial(check_past_models, stage, before)]
    if isinstance(train, TrainSettings):
        checks.append(partial(check_optimizer_arguments, train))
    if callable(check_reward := getattr(stage, "check_reward", None)):
        checks.append(check_reward)
    if isinstance(judge, JudgeSettings):
        checks += [judge.check_custom, partial(judge.judge_template, None)]
        checks += [judge.parser] if judge.mode != "pairwise" else []
    if isinstance(reward, str):
        checks.append(partial(load_reward_function, reward, base=base))
    scored = getattr(stage, "reward_model", None)
    for setting, model in (("judge.model", getattr(judge, "model", None)), ("reward_model", scored)):
        if isinstance(model, str):
            checks.append(partial(_check_model, setting, model, base))
    _do(checks, where, found)


def _check_model(setting: str, name: str, base: Path | None) -> None:
    """Raises ConfigError for a folder or a run's model that is not there."""
    source = model_source(name, base)
    if is_path(name) and source == folder_near(name, base) and not Path(source).is_dir():
        raise ConfigError(f"{setting} {missing_folder(name)}")


def check_items(data: Mapping[str, Lengths], context: int | None, where: str, found: Overview) -> None:
    """Whether the model can read what it is to be trained on, as the run's own check will see."""
    for name, lengths in data.items():
        if name == "prompts" or lengths.is_rough or context is None or lengths.longest_item <= context:
            continue
        found.problems.append(
            f"{where}: {name}: item {lengths.longest_row} has {lengths.longest_item} tokens, but the model's "
            f"context is {context}; shorten it, take it out, or have such items left out "
            f"(max_item_tokens: {context})"
        )


def check_lengths(
    stage: Any, lengths: Lengths | None, model: KnownModel, where: str, found: Overview
) -> None:
    """Whether prompts, answers and judgments fit the model's context; said only of what was counted.

    As a run does, too long an answer is lowered, with a warning here; what leaves no room is a problem.
    """
    candidates, context = getattr(stage, "candidates", None), model.context
    if candidates is None or context is None:
        return
    wanted = candidates.max_new_tokens
    if wanted is not None and wanted >= context:
        found.warnings.append(
            f"{where}: candidates.max_new_tokens {wanted} leaves no room for a prompt in the model's context "
            f"of {context} tokens, so answers will be limited to what the longest prompt leaves; lower it"
        )
    if lengths is not None and not lengths.is_rough:
        _do([partial(_check_budgets, stage, lengths, model)], "", found)


def _check_budgets(stage: Any, lengths: Lengths, model: KnownModel) -> None:
    """Raises ConfigError where nothing fits."""
    budget = response_budget(
        stage=stage.name,
        wanted=stage.candidates.max_new_tokens or DEFAULT_RESPONSE,
        prompt=lengths.longest_prompt,
        context=model.context,
        max_seq_len=stage.max_seq_len,
        text=lengths.longest_prompt_text,
    )
    judge = getattr(stage, "judge", None)
    if not isinstance(judge, JudgeSettings) or judge.model is not None or judge.server is not None:
        return
    if model.codec is None or not lengths.longest_prompt_text:
        return
    template = judge.judge_template(model.context)
    num_responses = len(template.variables) - 1
    shown = template.render(lengths.longest_prompt_text, *[""] * num_responses).text
    judged_budgets(
        stage=stage.name,
        response=budget,
        judgment=judge.max_new_tokens or DEFAULT_JUDGMENT if judge.mode == "sampled" else 0,
        judge_prompt=len(model.codec.prompt_ids(shown)),
        forced=0,  # a few tokens, which a run adds
        context=model.context,
        num_responses=num_responses,
    )


def odd_losses(stage: Any) -> list[str]:
    """A beta that is usual for summed log-probs, with a loss of their means."""
    train = getattr(stage, "train", None)
    if not isinstance(train, PreferenceSettings) or train.beta >= 1:
        return []
    names = list(train.loss) if isinstance(train.loss, dict) else [getattr(train.loss, "name", train.loss)]
    return [
        f"loss {name} takes log-probs per token, which are far smaller than their sums, so beta "
        f"{train.beta:g} hardly moves the model; above 1 is usual (Tulu 3, 2411.15124: 5; "
        "SimPO, 2405.14734: 2 and more)"
        for name in names
        if name in _PER_TOKEN
    ]


def _do(checks: Sequence[Callable[[], object]], where: str, found: Overview) -> None:
    for check in checks:
        try:
            check()
        except (SelfRewardingError, ValueError) as error:
            found.problems.append(f"{where}: {error}" if where else str(error))

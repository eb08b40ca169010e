"""Early stopping as in the paper: answers to validation prompts against the previous checkpoint's.

Self-Rewarding LMs (2401.10020), section 3.1: every 200 steps the generations on 253 validation prompts are
compared pairwise with those of the previous checkpoint, by another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from torch import nn

from self_rewarding_lm_pytorch.evaluation.answers import Answer, sample_answers
from self_rewarding_lm_pytorch.evaluation.head_to_head import TIED, verdicts
from self_rewarding_lm_pytorch.evaluation.win_rates import WinRate, win_rate
from self_rewarding_lm_pytorch.judges.answers_only import answers_only
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.judges.function import FunctionJudge, load_reward_function
from self_rewarding_lm_pytorch.judges.split import split
from self_rewarding_lm_pytorch.records import Prompt
from self_rewarding_lm_pytorch.registry import unknown_name
from self_rewarding_lm_pytorch.stages.base import Environment, StageRun
from self_rewarding_lm_pytorch.stages.budgets import Budgets, own_budget
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.prompts import read_prompts
from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings
from self_rewarding_lm_pytorch.text import reasoning_of
from self_rewarding_lm_pytorch.training.early_stopping import ComparingEvaluation
from self_rewarding_lm_pytorch.training.parts import Part

_SMALLEST_LOSS = 1e-9  # of the running score, where a tie stops


class WinRateStopping(SamplingSettings):
    """Training stops when its answers lose to those of the check before, whose weights then return.

    The first check compares with the policy as training begins. How answers are sampled is our choice (as the
    candidates are), the paper does not say; each prompt keeps its random numbers from check to check, so that
    weights that have not changed tie.

    judge: a language model's settings; {} is the policy itself, frozen as training begins, a second model in
        memory. The paper's was another model, comparing: {model: NAME, mode: pairwise}.
    reward: instead, a function over text, `file.py:name`.
    tie: continue (the newer weights are kept) or stop, where the win rate is 50 % exactly.
    tie_margin: points by which scores must differ, where the judge scores responses one at a time.
    """

    kind: Literal["win_rate"] = "win_rate"
    prompts: Any  # not trained on, for the figure to mean anything
    num: Annotated[int, Field(ge=1)] = 253  # the first so many; the paper's
    judge: JudgeSettings | None = None
    reward: Any = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None  # default: at most 256, as the context allows
    tie: Literal["continue", "stop"] = "continue"
    tie_margin: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _one_judge(self) -> WinRateStopping:
        if (self.judge is None) == (self.reward is None):
            given = "neither" if self.judge is None else "both"
            raise ValueError(
                f"needs either judge (a model that reads and judges; {{}} is the policy itself) or reward (a "
                f"function over text), but has {given}"
            )
        return self

    def check(self, env: Environment, stage: str) -> None:
        """Raises ConfigError or DataError for whatever can be known before any training."""
        if isinstance(self.reward, str):
            load_reward_function(self.reward, base=env.base)
        for note in self._budgets(env, stage, self._prompts(env, stage)).notes:
            env.reporter.say_once(f"early stopping: {note}")

    def evaluator(self, run: StageRun) -> WinRateEvaluator:
        """What scores a training that now begins."""
        prompts = self._prompts(run.env, run.name)
        budgets = self._budgets(run.env, run.name, prompts)
        return WinRateEvaluator(run, self, prompts, budgets.response, self._judge(run, budgets))

    def _prompts(self, env: Environment, stage: str) -> list[Prompt]:
        return read_prompts(env, self.prompts, stage, limit=self.num)

    def _budgets(self, env: Environment, stage: str, prompts: list[Prompt]) -> Budgets:
        if self.judge is not None:
            return self.judge.budgets(env, stage, prompts, response=self.max_new_tokens, max_seq_len=None)
        context = env.policy.max_length
        return own_budget(stage, prompts, wanted=self.max_new_tokens, context=context, max_seq_len=None)

    def _judge(self, run: StageRun, budgets: Budgets) -> Judge:
        codec = run.env.codec
        return answers_only(self._any_judge(run, budgets), codec, reasoning_of(codec))

    def _any_judge(self, run: StageRun, budgets: Budgets) -> Judge:
        env = run.env
        if self.judge is None:
            named = isinstance(self.reward, str)
            function = load_reward_function(self.reward, base=env.base) if named else self.reward
            return split(FunctionJudge(function))
        if self.judge.model is None and self.judge.server is None and self.judge.custom is None:
            env = replace(env, policy=env.policy.copy())
        return self.judge.build(
            env, run.name, budget=budgets.judgment, seed=(*run.seed, "early stopping"), num_candidates=2
        )


@dataclass
class WinRateEvaluator(ComparingEvaluation):
    """An early stopper's evaluation: each call's score is the last one plus (win rate - 1/2).

    So the score falls exactly where a check loses to the one before, and the best is the last that did not.
    """

    run: StageRun
    settings: WinRateStopping
    prompts: list[Prompt]
    max_new_tokens: int
    judge: Judge
    step: int = 0  # of the training under way
    num_steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # of the last check
    _score: float = 0.0
    _before: list[Answer] = field(default_factory=list)

    def begin(self, module: nn.Module) -> float:
        """Takes the answers before training; their score is 0."""
        self._score, self._before = 0.0, self._answers()
        self.metrics = {}
        return self._score

    def __call__(self, module: nn.Module) -> float:
        answers = self._answers()
        texts = [answer.text for answer in answers], [answer.text for answer in self._before]
        found = verdicts(self.judge, self.prompts, *texts, tie_margin=self.settings.tie_margin)
        seed = (*self.run.seed, "early stopping", self.step)
        rate = win_rate("now", "before", found, (answers, self._before), seed=seed)
        self._before = answers
        self._tell(rate)
        if rate.win_rate.value is None:
            return self._score
        self.metrics = {
            "win_rate_vs_previous": rate.win_rate.value / 100,
            "mean_answer_tokens": rate.first_lengths.tokens,
        }
        self.run.metrics.write(self.step, self.num_steps, self.metrics)
        gain = rate.win_rate.value / 100 - TIED
        if gain == 0 and self.settings.tie == "stop":
            gain = -_SMALLEST_LOSS
        self._score += gain
        return self._score

    def state(self) -> Part:
        values = {"score": self._score, "before": [asdict(answer) for answer in self._before]}
        return Part(
            values={**values, "metrics": self.metrics, "step": self.step, "num_steps": self.num_steps}
        )

    def resume(self, part: Part) -> None:
        self._score, self.metrics = part.values["score"], part.values["metrics"]
        self._before = [Answer(**answer) for answer in part.values["before"]]
        self.step, self.num_steps = part.values["step"], part.values["num_steps"]

    def _answers(self) -> list[Answer]:
        env = self.run.env
        return sample_answers(
            env.generator(),
            env.needed_codec(self.run.name),
            self.prompts,
            sampling=self.settings.sampling(),
            max_new_tokens=self.max_new_tokens,
            max_length=env.policy.max_length,
            seed=(*self.run.seed, "early stopping"),
        )

    def _tell(self, rate: WinRate) -> None:
        say, total, figure = self.run.env.reporter, len(self.prompts), rate.win_rate
        why = max(rate.reasons, key=lambda reason: rate.reasons[reason], default="")
        if figure.value is None:
            say.warn(
                f"step {self.step}: none of {total} comparisons with the previous check has a verdict "
                f"({why}), so training goes on unchecked; look at the early stopper's judge"
            )
            return
        interval = "" if figure.low is None else f" ({figure.low:.1f} to {figure.high:.1f})"
        missing = f", {rate.unjudged} without a verdict ({why})" if rate.unjudged else ""
        say.say(
            f"  step {self.step}: preferred to the previous check's answers in {figure.value:.1f} %{interval}"
            f" of {rate.num} comparisons{missing}"
        )


def as_stopper(source: Any) -> Any:
    """A plan's mapping as settings; `module:function`, a callable or an EarlyStopper as it is."""
    if not isinstance(source, Mapping):
        return source
    try:
        return WinRateStopping.model_validate({"kind": None, **source})
    except ValidationError as error:
        raise ValueError("; ".join(map(_problem, error.errors()))) from None


def _problem(found: Any) -> str:
    place = ".".join(map(str, found["loc"])) or "settings"
    if found["type"] == "extra_forbidden" and len(found["loc"]) == 1:
        return unknown_name("key", place, list(WinRateStopping.model_fields))
    return f"{place}: {found['msg']}"


AnyStopper = Annotated[Any, BeforeValidator(as_stopper)]
"""How a plan names an early stopper: {kind: win_rate, ...}, or module:function that scores a model."""

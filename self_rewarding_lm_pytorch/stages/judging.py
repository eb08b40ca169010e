"""How a plan describes its LLM judge, and how that becomes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.judges.expected import ExpectedScoreJudge
from self_rewarding_lm_pytorch.judges.forcing import ScoreForcer
from self_rewarding_lm_pytorch.judges.llm import LLMJudge
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.stopping import VoteStop
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate, builtin_names
from self_rewarding_lm_pytorch.models.load import load_policy, policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Prompt
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.budgets import (
    DEFAULT_JUDGMENT,
    DEFAULT_RESPONSE,
    Budgets,
    judged_budgets,
    response_budget,
)
from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings
from self_rewarding_lm_pytorch.text import Codec

_SMALL_CONTEXT = 2048  # below it, "auto" takes the short rubric
# What mode "expected" comes to, in settings that are about sampled votes; other values contradict it.
_UNSAMPLED: dict[str, Any] = {
    "votes": 1,
    "unparsed": "drop",
    "parse_reward": None,
    "stop_at_score": False,
    "stop": [],
    "max_new_tokens": None,
    "temperature": 1.0,
    "top_p": None,
    "top_k": None,
    "min_p": None,
    "filter_fn": None,
    "filter_kwargs": {},
}


class JudgeSettings(SamplingSettings):
    """LLM-as-a-Judge. Defaults: Self-Rewarding LMs, section 3.1."""

    mode: Literal["sampled", "expected"] = "sampled"  # expected: the mean of the score's distribution
    template: str | Callable[[str, str], str] = "auto"  # a built-in's name, or a template's text
    score_pattern: str | None = "Score: {{ reward }}"
    score_range: tuple[float, float] | None = (0, 5)
    parse_reward: Callable[[str], float | None] | None = None
    auto_dedent: bool = True
    votes: Annotated[int, Field(ge=1)] = 3
    unparsed: Literal["drop", "force"] = "drop"
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    stop_at_score: bool = True  # a vote ends with the line that holds its score; not with parse_reward
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)  # or with one of these
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None  # default 256, lowered to 64 where needed
    model: Any = None  # another model as the judge: a module, a folder or a hub name

    _other: tuple[Policy, Codec] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _no_contradiction(self) -> JudgeSettings:
        """Without sampling, settings of it are refused, and what is left unsaid is shown as it is."""
        if self.mode == "sampled":
            return self
        given = {name: getattr(self, name) for name in sorted(_UNSAMPLED.keys() & self.model_fields_set)}
        wrong = [f"{name}={value!r}" for name, value in given.items() if value != _UNSAMPLED[name]]
        if wrong:
            raise ValueError(
                f"mode 'expected' reads the score's distribution once and samples no votes, so "
                f"{', '.join(wrong)} would have no effect; leave {'that' if len(wrong) == 1 else 'those'} "
                "out, or take mode 'sampled'"
            )
        for name, value in _UNSAMPLED.items():
            if getattr(self, name) != value:
                setattr(self, name, value)
        return self

    def judge_model(self, env: Environment, stage: str) -> tuple[Policy, Codec]:
        """The judging policy and its codec: the policy itself unless another model is named."""
        if self.model is None:
            return env.policy, env.needed_codec(stage)
        if self._other is None:
            if isinstance(self.model, str):
                policy, codec = load_policy(self.model)
            else:
                policy, codec = policy_for(self.model), None
            policy.module.to(env.accelerator.device)
            self._other = (policy, codec or env.needed_codec(stage))
        return self._other

    def parser(self) -> ScoreParser:
        return ScoreParser(self.score_pattern, score_range=self.score_range, parse_reward=self.parse_reward)

    def judge_template(self, context: int | None) -> JudgeTemplate:
        if callable(self.template):
            return JudgeTemplate(template_fn=self.template)
        if self.template == "auto":
            small = context is not None and context < _SMALL_CONTEXT
            return JudgeTemplate.builtin("additive_small" if small else "additive")
        if self.template in builtin_names():
            return JudgeTemplate.builtin(self.template)
        if "{{" not in self.template:
            raise ConfigError(
                f"judge template {self.template!r} is neither a built-in ({', '.join(builtin_names())}, "
                "auto) nor a text with {{ prompt }} and {{ response }}"
            )
        return JudgeTemplate(self.template, auto_dedent=self.auto_dedent)

    def budgets(
        self,
        env: Environment,
        stage: str,
        prompts: Sequence[Prompt],
        *,
        response: int | None,
        max_seq_len: int | None,
    ) -> Budgets:
        """Response and judgment budgets that fit the policy's and the judge's context."""
        policy, codec = self.judge_model(env, stage)
        own = response_budget(
            stage=stage,
            wanted=response or DEFAULT_RESPONSE,
            prompt=max(len(prompt.ids) for prompt in prompts),
            context=env.policy.max_length,
            max_seq_len=max_seq_len,
        )
        longest = max(prompts, key=lambda prompt: len(prompt.ids)).text
        shown = self.judge_template(policy.max_length).render(longest, "").text
        sampled = 0 if self.mode == "expected" else self.max_new_tokens or DEFAULT_JUDGMENT
        return judged_budgets(
            stage=stage,
            response=own,
            judgment=sampled,
            judge_prompt=len(codec.prompt_ids(shown)),
            forced=self._unsampled_tokens(env, policy, codec, shown),
            context=policy.max_length,
        )

    def _unsampled_tokens(self, env: Environment, policy: Policy, codec: Codec, judge_prompt: str) -> int:
        """Tokens of a score that is appended and not sampled. Checks the score's format."""
        if self.mode == "expected":
            return self._expected(env, policy, codec).slot_behind(judge_prompt).num_tokens
        self.parser()
        forcer = self._forcer(env, policy, codec)
        return forcer.num_tokens if forcer is not None else 0

    def _forcer(self, env: Environment, policy: Policy, codec: Codec) -> ScoreForcer | None:
        if self.unparsed == "drop":
            return None
        return ScoreForcer(
            policy,
            codec,
            self.parser(),
            temperature=self.temperature,
            use_cache=env.can_cache(policy),
        )

    def _expected(self, env: Environment, policy: Policy, codec: Codec) -> ExpectedScoreJudge:
        return ExpectedScoreJudge(
            policy,
            codec,
            self.judge_template(policy.max_length),
            self.parser(),
            context=policy.max_length,
            use_cache=env.can_cache(policy),
        )

    def _stop(self, codec: Codec) -> VoteStop | None:
        at_score = self.stop_at_score and self.parse_reward is None
        if not (at_score or self.stop):
            return None
        return VoteStop(codec, parser=self.parser() if at_score else None, strings=self.stop)

    def build(self, env: Environment, stage: str, *, budget: int, seed: tuple[int | str, ...]) -> Judge:
        """The judge of one stage; `budget` is a sampled vote's tokens."""
        policy, codec = self.judge_model(env, stage)
        if self.mode == "expected":
            return self._expected(env, policy, codec)
        forcer = self._forcer(env, policy, codec)
        reserved = budget + (forcer.num_tokens if forcer is not None else 0)
        return LLMJudge(
            env.generator(policy, codec),
            codec,
            self.judge_template(policy.max_length),
            self.parser(),
            num_votes=self.votes,
            sampling=self.sampling(),
            max_new_tokens=budget,
            max_prompt_tokens=None if policy.max_length is None else policy.max_length - reserved,
            seed=seed,
            forcer=forcer,
            stop=self._stop(codec),
        )

"""How a plan describes its LLM judge, and how that becomes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.forcing import ScoreForcer
from self_rewarding_lm_pytorch.judges.llm import LLMJudge
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
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


class JudgeSettings(SamplingSettings):
    """LLM-as-a-Judge. Defaults: Self-Rewarding LMs, section 3.1."""

    template: str | Callable[[str, str], str] = "auto"  # a built-in's name, or a template's text
    score_pattern: str | None = "Score: {{ reward }}"
    score_range: tuple[float, float] | None = (0, 5)
    parse_reward: Callable[[str], float | None] | None = None
    auto_dedent: bool = True
    votes: Annotated[int, Field(ge=1)] = 3
    unparsed: Literal["drop", "force"] = "drop"
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None  # default 256, lowered to 64 where needed
    model: Any = None  # another model as the judge: a module, a folder or a hub name

    _other: tuple[Policy, Codec] | None = PrivateAttr(default=None)

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
        template, _ = self.judge_template(policy.max_length), self.parser()  # both checked here
        longest = max(prompts, key=lambda prompt: len(prompt.ids)).text
        forcer = self._forcer(env, policy, codec)
        return judged_budgets(
            stage=stage,
            response=own,
            judgment=self.max_new_tokens or DEFAULT_JUDGMENT,
            judge_prompt=len(codec.prompt_ids(template.render(longest, "").text)),
            forced=forcer.num_tokens if forcer is not None else 0,
            context=policy.max_length,
        )

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

    def build(self, env: Environment, stage: str, *, budget: int, seed: tuple[int | str, ...]) -> LLMJudge:
        """The judge of one stage; `budget` is a vote's tokens."""
        policy, codec = self.judge_model(env, stage)
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
        )

"""How a plan describes its LLM judge, and how that becomes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.server import ServerSettings
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.judges.expected import ExpectedScoreJudge
from self_rewarding_lm_pytorch.judges.forcing import ScoreForcer
from self_rewarding_lm_pytorch.judges.llm import LLMJudge
from self_rewarding_lm_pytorch.judges.pairwise import LABELS, PairwiseJudge
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.split import split
from self_rewarding_lm_pytorch.judges.stopping import VoteStop
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.models.load import load_policy, policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Prompt
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.budgets import (
    DEFAULT_JUDGMENT,
    Budgets,
    judged_budgets,
    longest_of,
    own_budget,
)
from self_rewarding_lm_pytorch.stages.chat_settings import other_judge
from self_rewarding_lm_pytorch.stages.custom_judging import CustomJudging
from self_rewarding_lm_pytorch.stages.judge_modes import ModeName, contradiction, settled_by
from self_rewarding_lm_pytorch.stages.judge_templates import chosen_template
from self_rewarding_lm_pytorch.stages.served_judging import not_here, served_budgets, served_judge
from self_rewarding_lm_pytorch.text import Codec, judging_codec, reasoning_of
from self_rewarding_lm_pytorch.text.reasoning import end_ids, marks_of


class JudgeSettings(CustomJudging):
    """LLM-as-a-Judge. Defaults: Self-Rewarding LMs, section 3.1.

    mode: sampled votes, averaged; expected: the mean of the score's distribution; pairwise: the mean
        probability of being preferred to another candidate (OAIF, arXiv 2402.04792).
    template: a built-in's name, a file that ends in .jinja, a template's text, or a function of what it
        shows: prompt and response, in mode pairwise prompt, first and second.
    labels: what a pairwise judge answers where the first response is better, and the second.
    """

    mode: ModeName = "sampled"
    template: str | Callable[..., str] = "auto"
    labels: tuple[str, str] = LABELS
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
    server: ServerSettings | None = None  # or one behind an OpenAI-compatible interface

    _other: tuple[Policy, Codec] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _no_contradiction(self) -> JudgeSettings:
        """What the mode leaves without effect is refused, and where it is left unsaid shown as it is."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        is_served, is_custom = self.server is not None, self.custom is not None
        if message := contradiction(self.mode, given, is_served=is_served, is_custom=is_custom):
            raise ValueError(message)
        if is_custom and "score_range" not in given:
            self.score_range = None  # its points are its own
        for name, value in settled_by(self.mode, is_served=is_served, is_custom=is_custom).items():
            if getattr(self, name) != value:
                setattr(self, name, value)
        return self

    def judge_model(self, env: Environment, stage: str) -> tuple[Policy, Codec]:
        """The judging policy and its codec: the policy itself unless another is named; not a served one."""
        if self.server is not None:
            raise not_here(self.server, stage)
        if self.model is None:
            return env.policy, judging_codec(env.needed_codec(stage))
        if self._other is None:
            if isinstance(self.model, str):
                policy, codec = load_policy(self.model)
            else:
                policy, codec = policy_for(self.model), None
            policy.module.to(env.accelerator.device)
            processes.share_weights(policy.module)
            own = judging_codec(env.needed_codec(stage)) if codec is None else other_judge(codec, env.codec)
            self._other = (policy, own)
        return self._other

    def parser(self) -> ScoreParser:
        return ScoreParser(self.score_pattern, score_range=self.score_range, parse_reward=self.parse_reward)

    def judge_template(self, context: int | None) -> JudgeTemplate:
        """context: of the judge's model."""
        return chosen_template(
            self.template,
            file_text=self._template_text,
            mode=self.mode,
            labels=self.labels,
            auto_dedent=self.auto_dedent,
            context=context,
        )

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
        context = env.policy.max_length
        own = own_budget(stage, prompts, wanted=response, context=context, max_seq_len=max_seq_len)
        if self.server is not None:
            return served_budgets(self, self.server, own)
        if self.custom is not None:
            return own
        policy, codec = self.judge_model(env, stage)
        longest = longest_of(prompts).text
        template = self.judge_template(policy.max_length)
        num_responses = len(template.variables) - 1
        shown = template.render(longest, *[""] * num_responses).text
        sampled = self.max_new_tokens or DEFAULT_JUDGMENT if self.mode == "sampled" else 0
        return judged_budgets(
            stage=stage,
            response=own,
            judgment=sampled,
            judge_prompt=len(codec.prompt_ids(shown)),
            forced=self._unsampled_tokens(env, policy, codec, shown),
            context=policy.max_length,
            num_responses=num_responses,
        )

    def _unsampled_tokens(self, env: Environment, policy: Policy, codec: Codec, judge_prompt: str) -> int:
        """Tokens of a score or label that is appended and not sampled. Checks its format."""
        if self.mode != "sampled":
            return self._reading(env, policy, codec).slot_behind(judge_prompt).num_tokens
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
            closing=() if (reasoning := reasoning_of(codec)) is None else end_ids(codec, reasoning),
        )

    def _reading(
        self, env: Environment, policy: Policy, codec: Codec, num_candidates: int = 2
    ) -> ExpectedScoreJudge | PairwiseJudge:
        """The judge of a mode that reads its answers instead of sampling them."""
        reasoning = reasoning_of(codec)
        if reasoning is not None and reasoning.is_open:
            raise ConfigError(
                f"mode {self.mode!r} reads where the judge's answer begins, but its chat template begins "
                f"answers with {reasoning.begin}, so it would read in the middle of reasoning; take mode "
                "'sampled', or arguments with which it does not (chat: {judge: {template_arguments: "
                "{enable_thinking: false}}})"
            )
        template = self.judge_template(policy.max_length)
        context, use_cache = policy.max_length, env.can_cache(policy)
        if self.mode == "expected":
            parser = self.parser()
            return ExpectedScoreJudge(policy, codec, template, parser, context=context, use_cache=use_cache)
        return PairwiseJudge(
            policy,
            codec,
            template,
            labels=self.labels,
            num_candidates=num_candidates,
            context=context,
            use_cache=use_cache,
        )

    def _stop(self, codec: Codec) -> VoteStop | None:
        at_score = self.stop_at_score and self.parse_reward is None
        if not (at_score or self.stop):
            return None
        parser = self.parser() if at_score else None
        return VoteStop(codec, parser=parser, strings=self.stop, reasoning=reasoning_of(codec))

    def build(
        self,
        env: Environment,
        stage: str,
        *,
        budget: int,
        seed: tuple[int | str, ...],
        num_candidates: int = 2,
    ) -> Judge:
        """The judge of one stage; on several processes each judges its part.

        budget: a sampled vote's tokens. num_candidates: of each visit; a pairwise judge compares so many.
        """
        return split(self._own_judge(env, stage, budget, seed, num_candidates))

    def _own_judge(
        self, env: Environment, stage: str, budget: int, seed: tuple[int | str, ...], num_candidates: int
    ) -> Judge:
        if self.custom is not None:
            return self.own_judge()
        if self.server is not None:
            return served_judge(
                self,
                self.server,
                budget=budget,
                seed=seed,
                num_candidates=num_candidates,
                reasoning=marks_of(env.codec),
            )
        policy, codec = self.judge_model(env, stage)
        if self.mode != "sampled":
            return self._reading(env, policy, codec, num_candidates)
        forcer = self._forcer(env, policy, codec)
        reserved = budget + (forcer.num_tokens if forcer is not None else 0)
        return LLMJudge(
            env.own_generator(policy, codec),
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
            reasoning=reasoning_of(codec),
        )

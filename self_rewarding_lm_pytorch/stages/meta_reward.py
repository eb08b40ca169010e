"""Meta-Rewarding: the policy answers, judges its answers, and judges its judgments; it learns from both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.pairwise import LABELS, PairwiseJudge
from self_rewarding_lm_pytorch.judges.split import split
from self_rewarding_lm_pytorch.judges.template import META, JudgeTemplate, builtin_names, placeholders
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.preferences.judgment_pairs import JudgePairRule
from self_rewarding_lm_pytorch.records import PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, Settings, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.budgets import longest_of
from self_rewarding_lm_pytorch.stages.dpo import PairTraining
from self_rewarding_lm_pytorch.stages.judge_pairs import JudgePairs, judge_pair_figures
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.prompts import made_by
from self_rewarding_lm_pytorch.stages.sampling import CandidateSettings
from self_rewarding_lm_pytorch.stages.self_reward import SelfRewardStage
from self_rewarding_lm_pytorch.text import Codec


class MetaCandidates(CandidateSettings):
    """The answers sampled for each prompt. Defaults: Meta-Rewarding LMs."""

    num: Annotated[int, Field(ge=2)] = 7
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.95


class MetaVotes(JudgeSettings):
    """The judgments of each answer. Defaults: Meta-Rewarding LMs."""

    votes: Annotated[int, Field(ge=1)] = 11
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.95


class MetaTraining(PairTraining):
    """Defaults: Meta-Rewarding LMs, which trains for up to 10 epochs and selects a checkpoint."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    epochs: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(ge=0)] = 5e-6


class MetaSettings(Settings):
    """The meta-judge, and which of the judgments it compares become pairs.

    template: a built-in's name, a template's text, or a function of what it shows: judge_prompt (all that
        the judge was shown), first and second (the judgments).
    labels: what it answers where the first judgment is better, and the second.
    """

    template: str | Callable[..., str] = "auto"
    labels: tuple[str, str] = LABELS
    model: Any = None  # another model as the meta-judge: a module, a folder or a hub name
    max_judgments: Annotated[int, Field(ge=2)] = 11  # of one response compared, all with all, both orders
    # Of the judge pairs, the largest share whose chosen judgments give the same points: NeMo-Aligner's.
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.4
    max_tokens: Annotated[int, Field(ge=1)] | None = None  # a longer judgment is not chosen
    num_pairs: Annotated[int, Field(ge=1)] | None = None  # no more judge pairs than that

    _as_judge: JudgeSettings | None = PrivateAttr(default=None)

    def meta_model(self, env: Environment, stage: str) -> tuple[Policy, Codec]:
        """The meta-judging policy and its codec: the policy itself unless another model is named."""
        if self._as_judge is None:
            self._as_judge = JudgeSettings(mode="pairwise", model=self.model)
        return self._as_judge.judge_model(env, stage)

    def meta_template(self) -> JudgeTemplate:
        if callable(self.template):
            return JudgeTemplate(template_fn=self.template, variables=META)
        name, known = "meta" if self.template == "auto" else self.template, builtin_names(META)
        if name in known:
            if self.labels != LABELS:
                raise ConfigError(
                    f"the built-in template {name!r} of the meta-judge asks for {' or '.join(LABELS)}, so "
                    f"meta.labels={self.labels!r} would be read where it writes neither; leave labels out, "
                    "or give a template of your own that asks for them"
                )
            return JudgeTemplate.builtin(name, META)
        if "{{" not in name:
            raise ConfigError(
                f"meta.template {name!r} is neither a built-in ({', '.join(known)}, auto) nor a text with "
                f"{placeholders(META)}, so no judgments could be compared with it"
            )
        return JudgeTemplate(name, variables=META)

    def build(self, env: Environment, stage: str) -> PairwiseJudge:
        """The meta-judge of one stage."""
        policy, codec = self.meta_model(env, stage)
        return PairwiseJudge(
            policy,
            codec,
            self.meta_template(),
            labels=self.labels,
            num_candidates=self.max_judgments,
            context=policy.max_length,
            use_cache=env.can_cache(policy),
        )

    def rule(self) -> JudgePairRule:
        return JudgePairRule(self.max_judgments, self.max_share, self.max_tokens, self.num_pairs)


class MetaRewardStage(SelfRewardStage):
    """One iteration of Meta-Rewarding Language Models (2407.19594, section 2).

    train_judge: whether judge pairs are trained on beside the answers'; the paper does in its first two
        iterations, and trains on answers alone in the third and fourth.
    """

    kind: Literal["meta_reward"] = "meta_reward"  # type: ignore[assignment]  # its kind, not its base's
    candidates: MetaCandidates = Field(default_factory=MetaCandidates)
    judge: MetaVotes = Field(default_factory=MetaVotes)
    train: MetaTraining = Field(default_factory=MetaTraining)
    train_judge: bool = True
    meta: MetaSettings = Field(default_factory=MetaSettings)

    @model_validator(mode="after")
    def _judgments_can_be_compared(self) -> MetaRewardStage:
        if not self.train_judge:
            return self
        fault = ""
        if self.judge.custom is not None:
            fault = "judge.custom is a judge of your own, which judges in its place; leave that out"
        elif self.judge.mode != "sampled":
            fault = f"judge.mode {self.judge.mode!r} writes none; take mode sampled"
        elif self.judge.votes < 2:
            fault = "judge.votes 1 gives a response only one; ask for more votes"
        elif self.judge.model is not None:
            fault = "those of another judge.model are not its own; leave judge.model out"
        elif self.train.preference_loss().needs_margin:
            fault = (
                f"the loss {self.train.preference_loss().name} counts margins, which are points for answers "
                "and Elo points for judgments, two scales that cannot be compared; take another loss"
            )
        if fault:
            raise ValueError(
                f"train_judge trains the policy on its own sampled judgments, but {fault}, or set "
                "train_judge: false"
            )
        return self

    def check(self, env: Environment) -> None:
        super().check(env)
        if not self.train_judge:
            return
        self.meta.build(env, self.name)  # what cannot work is refused before anything is sampled
        if made_by(self.prompts) in (None, *env.checkpoints):
            self._check_context(env)

    def _check_context(self, env: Environment) -> None:
        """Comparisons that never fit are refused; those that may not are told."""
        policy, codec = self.meta.meta_model(env, self.name)
        if policy.max_length is None:
            return
        prompts = self.read_prompts(env)
        longest = longest_of(prompts).text
        judge_prompt = self.judge.judge_template(env.policy.max_length).render(longest, "").text
        least = len(codec.prompt_ids(self.meta.meta_template().render(judge_prompt, "", "").text))
        if least >= policy.max_length:
            raise ConfigError(
                f"stage {self.name!r}: to compare two judgments takes {least} tokens before response and "
                f"judgments are put in, but the meta-judge's context is {policy.max_length}, so none could "
                "be; use shorter templates (judge.template, meta.template), or set train_judge: false"
            )
        budgets = self.budgets(env, prompts)
        most = least + budgets.response + 2 * budgets.judgment
        if most >= policy.max_length:
            env.reporter.say_once(
                f"stage {self.name!r}: comparing two judgments may take {most} tokens and the meta-judge's "
                f"context is {policy.max_length}; comparisons that do not fit are left out and counted"
            )

    def run(self, run: StageRun) -> StageOutcome:
        outcome = super().run(run)
        if self.train_judge:
            counts, seconds = judge_pair_figures(run)
            outcome.metrics |= counts
            outcome.judge_seconds += seconds
        return outcome

    def further_pairs(self, run: StageRun, prompts: list[Prompt]) -> Sequence[PreferencePair]:
        """Judge pairs, kept below the stage's folder in judge_pairs/."""
        if not self.train_judge:
            return ()
        template = self.judge.judge_template(run.env.policy.max_length)
        judge = split(self.meta.build(run.env, run.name))
        return JudgePairs(run, prompts, template, judge, self.meta.rule()).find()

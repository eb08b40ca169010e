"""Self-rewarding: the policy answers, judges its own answers, and is trained on its preferences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.records import PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, StageRun
from self_rewarding_lm_pytorch.stages.budgets import Budgets
from self_rewarding_lm_pytorch.stages.consistency import ConsistencySettings, label_certainties, past_run
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.rewarded import RewardedStage


class SelfRewardStage(RewardedStage):
    """One iteration of Self-Rewarding Language Models (2401.10020, section 2.4)."""

    kind: Literal["self_reward"] = "self_reward"
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    consistency: ConsistencySettings | None = None  # labels believed as far as two iterates agree (CREAM)

    def past_models(self) -> dict[str, str]:
        named = super().past_models()
        return named if self.consistency is None else {**named, "consistency.past": self.consistency.past}

    def check(self, env: Environment) -> None:
        super().check(env)
        if self.consistency is None:
            return
        loss = self.train.preference_loss()
        if loss.needs_margin or loss.needs_whole_batch:
            raise ConfigError(
                "consistency weighs a pair's loss against that of the pair turned round, for which "
                f"{loss.name} has no value (it uses the judge's margin, or compares the pairs of a step); "
                "take another loss"
            )
        others = ("model", "server", "custom")
        other = next((name for name in others if getattr(self.judge, name) is not None), "")
        if other:
            raise ConfigError(
                "consistency compares the policy's own judgments with its past self's, but "
                f"judge.{other} names another judge, who does not change; leave one of them out"
            )

    def budgets(self, env: Environment, prompts: list[Prompt]) -> Budgets:
        return self.llm_budgets(self.judge, env, prompts)

    def certainties(
        self, run: StageRun, prompts: list[Prompt], pairs: Sequence[PreferencePair]
    ) -> Sequence[float]:
        if self.consistency is None:
            return super().certainties(run, prompts, pairs)
        past = past_run(run, self.consistency.past)
        judge = self.llm_judge(self.judge, past, self.budgets(run.env, prompts))
        return label_certainties(run, self.consistency, prompts, pairs, judge)

    def judge_for(self, run: StageRun, budgets: Budgets) -> Judge:
        return self.llm_judge(self.judge, run, budgets)

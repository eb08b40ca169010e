"""DPO with an external reward: own samples, scored by a reward model or a function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr
from torch import nn

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.judges.function import (
    DEFAULT_TIMEOUT_SECONDS,
    FunctionJudge,
    load_reward_function,
)
from self_rewarding_lm_pytorch.judges.reward_model import RewardModelJudge
from self_rewarding_lm_pytorch.judges.split import split
from self_rewarding_lm_pytorch.judges.text_reward import TextRewardJudge
from self_rewarding_lm_pytorch.records import Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, StageRun
from self_rewarding_lm_pytorch.stages.budgets import Budgets, own_budget
from self_rewarding_lm_pytorch.stages.rewarded import JudgedStage, RewardedStage


class ExternallyJudgedStage(JudgedStage):
    """reward: `file.py:name`, a function (prompts, responses) -> list of floats over text.

    reward_model: a folder or hub name of a sequence classifier with one output, which reads text through its
        own tokenizer; or, from Python, a module or function over ids of prompt + response.
    reward_timeout_seconds: how long one call of the reward function may take, before the run stops and names
        the batch; null: any time.
    """

    reward: Any = None
    reward_model: Any = None
    reward_timeout_seconds: Annotated[float, Field(gt=0)] | None = DEFAULT_TIMEOUT_SECONDS

    _loaded: TextRewardJudge | None = PrivateAttr(default=None)

    def budgets(self, env: Environment, prompts: list[Prompt]) -> Budgets:
        wanted, context = self.candidates.max_new_tokens, env.policy.max_length
        return own_budget(self.name, prompts, wanted=wanted, context=context, max_seq_len=self.max_seq_len)

    def check(self, env: Environment) -> None:
        self.check_reward()
        if isinstance(self.reward, str):
            load_reward_function(self.reward, base=env.base)
        if isinstance(self.reward_model, str):
            self._loaded = self._load(self.reward_model, env)
        super().check(env)

    def check_reward(self) -> None:
        if (self.reward is None) == (self.reward_model is None):
            raise ValueError(
                f"stage {self.name!r} needs either reward (a function over text) or reward_model (over ids)"
            )

    def judge_for(self, run: StageRun, budgets: Budgets) -> Judge:
        return self.answers_alone(run, split(self._own_judge(run)))

    def _own_judge(self, run: StageRun) -> Judge:
        if isinstance(self.reward_model, str):
            return self._loaded or self._load(self.reward_model, run.env)
        if self.reward_model is not None:
            device = run.env.accelerator.device
            if isinstance(self.reward_model, nn.Module):
                processes.share_weights(self.reward_model.to(device).eval())
            return RewardModelJudge(self.reward_model, device=device)
        named = isinstance(self.reward, str)
        function = load_reward_function(self.reward, base=run.env.base) if named else self.reward
        return FunctionJudge(function, timeout_seconds=self.reward_timeout_seconds)

    def _load(self, source: str, env: Environment) -> TextRewardJudge:
        beside = (env.base or Path()) / source
        is_folder = not Path(source).exists() and beside.is_dir()
        return TextRewardJudge.load(str(beside if is_folder else source), device=env.accelerator.device)


class ExternalRewardStage(ExternallyJudgedStage, RewardedStage):
    """DPO on own samples that a reward scored."""

    kind: Literal["external_reward"] = "external_reward"

"""Preference training on given pairs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.early_stopping import AnyStopper
from self_rewarding_lm_pytorch.stages.items import PAIRS, ItemTokens
from self_rewarding_lm_pytorch.stages.pairs import train_on_pairs
from self_rewarding_lm_pytorch.stages.training import check_stopper
from self_rewarding_lm_pytorch.training.settings import PreferenceSettings


class PairTraining(PreferenceSettings):
    """Defaults: Self-Rewarding LMs, section 3.1."""

    dropout: float | None = Field(default=0.1, ge=0, lt=1)


class DPOStage(StageConfig):
    """Direct Preference Optimization (2305.18290) on pairs that people or other systems made."""

    kind: Literal["dpo"] = "dpo"
    data: Any  # prompt/chosen/rejected, or items (preferred ids, unpreferred ids, prompt length)
    valid_data: Any = None
    max_item_tokens: ItemTokens = None
    train: PairTraining = Field(default_factory=PairTraining)
    early_stopper: AnyStopper = None

    def check(self, env: Environment) -> None:
        super().check(env)
        check_stopper(self.early_stopper, self.train, env, self.name)
        PAIRS.check(env, self.name, self.data, "data", max_tokens=self.max_item_tokens)
        PAIRS.check(env, self.name, self.valid_data, "valid", max_tokens=self.max_item_tokens)

    def run(self, run: StageRun) -> StageOutcome:
        bound = self.max_item_tokens
        pairs = PAIRS.of(run, self.data, "data", max_tokens=bound)
        held = self.valid_data
        valid = PAIRS.of(run, held, "valid", max_tokens=bound) if held is not None else ()
        run.env.reporter.say(f"  {len(pairs):,} pairs")
        return train_on_pairs(run, pairs, self.train, valid=valid, early_stopper=self.early_stopper)

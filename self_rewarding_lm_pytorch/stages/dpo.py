"""Preference training on given pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from self_rewarding_lm_pytorch.data.files import is_there
from self_rewarding_lm_pytorch.data.item_file import pairs_in, write_pairs
from self_rewarding_lm_pytorch.data.items import check_files, each_given_pair
from self_rewarding_lm_pytorch.records import PairExample
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.chat_settings import system_notes
from self_rewarding_lm_pytorch.stages.early_stopping import AnyStopper
from self_rewarding_lm_pytorch.stages.forms import say_forms
from self_rewarding_lm_pytorch.stages.pairs import train_on_pairs
from self_rewarding_lm_pytorch.stages.sft import not_empty
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
    train: PairTraining = Field(default_factory=PairTraining)
    early_stopper: AnyStopper = None

    def check(self, env: Environment) -> None:
        super().check(env)
        check_stopper(self.early_stopper, self.train, env, self.name)
        for source in (self.data, self.valid_data):
            check_files(each_given_pair, source, env.policy, env.codec, base=env.base)

    def run(self, run: StageRun) -> StageOutcome:
        pairs = _read(run, self.data, "data")
        valid = _read(run, self.valid_data, "valid") if self.valid_data is not None else ()
        run.env.reporter.say(f"  {len(pairs):,} pairs")
        return train_on_pairs(run, pairs, self.train, valid=valid, early_stopper=self.early_stopper)


def _read(run: StageRun, source: Any, name: str) -> Sequence[PairExample]:
    """The source's pairs, read once per stage and kept with the run."""
    path = run.folder / "items" / f"{name}.arrow"
    if not is_there(path):
        say_forms(run.env, source, "pairs")
        write_pairs(path, each_given_pair(source, run.env.policy, run.env.codec, base=run.env.base))
        for note in system_notes(run.env.codec):
            run.env.reporter.say_once(note)
    return not_empty(pairs_in(path), run.name, name)

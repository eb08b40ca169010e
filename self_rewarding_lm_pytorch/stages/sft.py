"""Supervised fine-tuning: cross-entropy on the response, and only on it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from self_rewarding_lm_pytorch.data.items import (
    check_files,
    keep_examples,
    kept_examples,
    supervised_examples,
)
from self_rewarding_lm_pytorch.records import Example
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.training import run_training, supervised_term
from self_rewarding_lm_pytorch.training.loop import Hooks
from self_rewarding_lm_pytorch.training.settings import TrainSettings


class SupervisedSettings(TrainSettings):
    """Defaults: Self-Rewarding LMs, section 3.1."""

    epochs: int = Field(default=3, ge=1)
    learning_rate: float = Field(default=5.5e-6, ge=0)
    END_FRACTION: ClassVar[float] = 0.2  # 5.5e-6 falls to 1.1e-6
    dropout: float | None = Field(default=0.1, ge=0, lt=1)


class SFTStage(StageConfig):
    """Trains on the data set's responses; judge examples are prompts and responses like any other."""

    kind: Literal["sft"] = "sft"
    data: Any  # file or files of prompt/response, or items (ids, prompt length or mask)
    valid_data: Any = None
    train: SupervisedSettings = Field(default_factory=SupervisedSettings)

    def check(self, env: Environment) -> None:
        super().check(env)
        for source in (self.data, self.valid_data):
            check_files(supervised_examples, source, env.policy, env.codec, base=env.base)

    def run(self, run: StageRun) -> StageOutcome:
        examples = read_examples(run, self.data, "data")
        hooks = Hooks()
        if self.valid_data is not None:
            valid = read_examples(run, self.valid_data, "valid")
            hooks.validation = supervised_term(run.env.policy, valid, self.train, name="valid")
        tokens = sum(example.num_targets for example in examples)
        run.env.reporter.say(f"  {len(examples):,} examples, {tokens:,} target tokens")
        return run_training(
            run, [supervised_term(run.env.policy, examples, self.train)], self.train, hooks=hooks
        )


def read_examples(run: StageRun, source: Any, name: str) -> list[Example]:
    """The source's items, read once per stage and kept with the run."""
    path = run.folder / "items" / f"{name}.parquet"
    if path.exists():
        return kept_examples(path)
    examples = supervised_examples(source, run.env.policy, run.env.codec, base=run.env.base)
    keep_examples(path, examples)
    return examples

"""Supervised fine-tuning: cross-entropy on the response, and only on it; also on judgments the model
writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from self_rewarding_lm_pytorch.data.lazy import Joined
from self_rewarding_lm_pytorch.records import Example
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.items import EXAMPLES, ItemTokens
from self_rewarding_lm_pytorch.stages.judge_data import JudgeDataSettings
from self_rewarding_lm_pytorch.stages.training import run_training, supervised_term
from self_rewarding_lm_pytorch.text import judging_codec
from self_rewarding_lm_pytorch.training.loop import Hooks
from self_rewarding_lm_pytorch.training.settings import TrainSettings


class SupervisedSettings(TrainSettings):
    """Defaults: Self-Rewarding LMs, section 3.1."""

    epochs: int = Field(default=3, ge=1)
    learning_rate: float = Field(default=5.5e-6, ge=0)
    END_FRACTION: ClassVar[float] = 0.2  # 5.5e-6 falls to 1.1e-6
    dropout: float | None = Field(default=0.1, ge=0, lt=1)


class SFTStage(StageConfig):
    """Trains on the data set's responses; judge examples are prompts and responses like any other.

    judge_data: the policy, as the stage begins, writes judgments of responses that people have judged; those
        that agree with people are trained on beside `data` (or alone, where there is none).
    start_from: a finished stage of the run, or "initial": once the judgments are written, training begins
        from those weights. In Self-Rewarding LMs (section 3.1) the SFT baseline writes them, and M1 is
        trained from the base model on both kinds of data.
    """

    kind: Literal["sft"] = "sft"
    data: Any = None  # files of conversations or of prompts and responses, or (ids, prompt length or mask)
    judge_data: JudgeDataSettings | None = None
    start_from: str | None = None
    valid_data: Any = None
    max_item_tokens: ItemTokens = None
    train: SupervisedSettings = Field(default_factory=SupervisedSettings)

    @model_validator(mode="after")
    def _something_to_train_on(self) -> SFTStage:
        if self.data is None and self.judge_data is None:
            raise ValueError("data is missing: give data, judge_data, or both")
        return self

    def past_models(self) -> dict[str, str]:
        named = super().past_models()
        return named if self.start_from is None else {**named, "start_from": self.start_from}

    def check(self, env: Environment) -> None:
        super().check(env)
        bound = self.max_item_tokens
        EXAMPLES.check(env, self.name, self.data, "data", max_tokens=bound)
        EXAMPLES.check(env, self.name, self.valid_data, "valid", max_tokens=bound)
        if self.judge_data is not None:
            self.judge_data.check(env, self.name)

    def run(self, run: StageRun) -> StageOutcome:
        examples: Sequence[Example] = ()
        if self.data is not None:
            examples = EXAMPLES.of(run, self.data, "data", max_tokens=self.max_item_tokens)
        made = None
        if self.judge_data is not None:
            made = self.judge_data.make(run.env, run.name, run.folder, run.seed)
            run.env.reporter.lines(made.counts.lines())
            rows = [example.row() for example in made.examples]
            examples = Joined(examples, self._as_judged(run, rows))
        if self.start_from is not None:
            run.env.return_to(self.start_from)
        outcome = self._train(run, examples)
        if made is not None:
            outcome.tokens_generated = made.counts.tokens
            outcome.judge_seconds = made.counts.seconds
            outcome.metrics.update(made.counts.metrics())
        return outcome

    def _as_judged(self, run: StageRun, rows: list[dict[str, Any]]) -> Sequence[Example]:
        """Judge examples as the judge is shown them: without the policy's system text."""
        codec = judging_codec(run.env.needed_codec(run.name))
        return EXAMPLES.of(run, rows, "judge-data", codec=codec)

    def _train(self, run: StageRun, examples: Sequence[Example]) -> StageOutcome:
        hooks = Hooks()
        if self.valid_data is not None:
            valid = EXAMPLES.of(run, self.valid_data, "valid", max_tokens=self.max_item_tokens)
            hooks.validation = supervised_term(run.env.policy, valid, self.train, name="valid")
        tokens = sum(example.num_targets for example in examples)
        run.env.reporter.say(f"  {len(examples):,} examples, {tokens:,} target tokens")
        return run_training(
            run, [supervised_term(run.env.policy, examples, self.train)], self.train, hooks=hooks
        )

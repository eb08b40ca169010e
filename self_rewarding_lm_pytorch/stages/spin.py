"""SPIN self-play (2401.01335): the data set's response against the frozen opponent's own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError, DataError
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.preferences.yields import Yield
from self_rewarding_lm_pytorch.records import Candidate, Example, PairExample, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.items import LAST_TURNS, ItemTokens
from self_rewarding_lm_pytorch.stages.pairs import train_on_pairs
from self_rewarding_lm_pytorch.stages.spin_presets import (
    OpponentSettings,
    SPINTraining,
    iteration_settings,
    resolved_iterations,
    with_preset,
)
from self_rewarding_lm_pytorch.stages.spin_records import (
    item_prompt,
    item_response,
    pair_records,
    told_prompts,
)
from self_rewarding_lm_pytorch.text import example_from_parts
from self_rewarding_lm_pytorch.training.optimizer import check_optimizer_arguments

Answers = dict[int, Candidate]  # by the prompt's index


class SPINStage(StageConfig):
    """In each iteration the policy as it stands becomes opponent: it generates and is the reference.

    Of a conversation it is the last answer that is played for; what stands before is the prompt.

    With `mix_previous` the opponent before it has its answers in the pairs too; the reference of all pairs
    is the present one. `preset` fills in the published settings where the plan says nothing itself (see
    spin_presets.py); `per_iteration` holds training settings over `train`'s, the last entry for all later
    iterations. No response of the data set is cut: items without room are skipped and counted.
    """

    kind: Literal["spin"] = "spin"
    data: Any
    valid_data: Any = None
    preset: Literal["paper", "repo"] | None = None
    num_iterations: Annotated[int, Field(ge=1)] = 1  # with a preset 4
    mix_previous: bool = True
    max_seq_len: Annotated[int, Field(ge=2)] | None = None  # the opponent's prompt + response
    max_prompt_tokens: Annotated[int, Field(ge=1)] | None = None  # items with longer prompts are skipped
    max_item_tokens: ItemTokens = None
    opponent: OpponentSettings = Field(default_factory=OpponentSettings)
    train: SPINTraining = Field(default_factory=SPINTraining)
    per_iteration: list[dict[str, Any]] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        # This runs before the base class gathers training settings that stand beside the stage's own.
        return with_preset(cls.with_training_keys_moved(values)) if isinstance(values, dict) else values

    @field_validator("per_iteration")
    @classmethod
    def _valid_iterations(cls, entries: list[dict[str, Any]], info: ValidationInfo) -> list[dict[str, Any]]:
        train, count = info.data.get("train"), info.data.get("num_iterations")
        if train is None or count is None:
            return entries  # what is wrong with those is said already
        if len(entries) > count:
            raise ValueError(
                f"{len(entries)} entries, but num_iterations is {count}, so those from {count + 1} on would "
                "never be used; raise num_iterations or leave them out"
            )
        return resolved_iterations(entries, train)

    def settings(self, iteration: int) -> SPINTraining:
        """How iteration `iteration` (from 0) trains."""
        if not self.per_iteration:
            return self.train
        return iteration_settings(self.train, self.per_iteration[min(iteration, len(self.per_iteration) - 1)])

    def check(self, env: Environment) -> None:
        super().check(env)
        for iteration in range(len(self.per_iteration)):
            check_optimizer_arguments(self.settings(iteration))
        if any(self.settings(number).reference == "adapter_off" for number in range(1, self.num_iterations)):
            raise ConfigError(
                f"reference adapter_off is the model without its adapter, but of {self.num_iterations} "
                "iterations the first trains that; take reference: stage_start, the opponent"
            )
        bound = self.max_item_tokens
        LAST_TURNS.check(env, self.name, self.data, "data", max_tokens=bound)
        LAST_TURNS.check(env, self.name, self.valid_data, "valid", max_tokens=bound)

    def run(self, run: StageRun) -> StageOutcome:
        """num_pairs and yield count each pair once, where it is made; metrics' mixed_pairs its second use."""
        held, bound = self.valid_data, self.max_item_tokens
        examples = LAST_TURNS.of(run, self.data, "data", max_tokens=bound)
        valid = LAST_TURNS.of(run, held, "valid", max_tokens=bound) if held is not None else []
        told = told_prompts(run, self.data, examples)
        total = StageOutcome()
        mixed = 0
        for iteration in range(self.num_iterations):
            run.metrics.iteration = iteration + 1 if self.num_iterations > 1 else None
            own = self._play(run, examples, iteration, "data", total)
            if not run.store.has(PreferencePair, iteration):
                records = pair_records(own, iteration, run.env.codec, told)
                run.store.write(PreferencePair, iteration, records, {})
            before = self._of_previous(run, examples, iteration)
            held_out = self._play(run, valid, iteration, "valid", StageOutcome()) if valid else []
            outcome = train_on_pairs(
                run,
                _numbered(own + before),
                self.settings(iteration),
                valid=_numbered(held_out),
                steps_folder=_steps_folder(iteration),
                name=f"iteration-{iteration + 1}",
            )
            mixed += len(before)
            total.train_seconds += outcome.train_seconds
            total.metrics = outcome.metrics
            total.num_pairs += len(own)
        if self.mix_previous and self.num_iterations > 1:
            total.metrics = {**total.metrics, "mixed_pairs": float(mixed)}
        return total

    def _play(
        self, run: StageRun, examples: Sequence[Example], iteration: int, part: str, total: StageOutcome
    ) -> list[PairExample]:
        """Pairs of the data set's response and the opponent's; unusable prompts are counted."""
        prompts = [item_prompt(i, example) for i, example in enumerate(examples)]
        started = time.monotonic()
        answers = self._answers(run, prompts, iteration, part)
        total.generate_seconds += time.monotonic() - started
        total.tokens_generated += sum(len(candidate.ids) for candidate in answers.values())
        total.counts.candidates += len(answers)
        skipped = Counter(total.counts.skipped)
        pairs = self._pairs(run, examples, answers, total.counts)
        for reason, num in (Counter(total.counts.skipped) - skipped).items():
            run.env.reporter.say(f"  {num:,} of {len(prompts):,} items give no pair: {reason}")
        if not pairs:
            raise DataError(
                f"stage {run.name!r}: none of {len(prompts)} items gave a pair "
                f"({dict(total.counts.skipped)}); raise max_seq_len or max_prompt_tokens, or look at the "
                "prompt lengths"
            )
        return pairs

    def _of_previous(self, run: StageRun, examples: Sequence[Example], iteration: int) -> list[PairExample]:
        """The pairs of the iteration before, from its stored answers."""
        if not self.mix_previous or iteration == 0:
            return []
        stored = _answer_store(run, iteration - 1, "data").read_all(Candidate)
        pairs = self._pairs(run, examples, {answer.prompt_index: answer for answer in stored}, Yield())
        run.env.reporter.say(f"  with {len(pairs):,} pairs of iteration {iteration}")
        return pairs

    def _pairs(
        self, run: StageRun, examples: Sequence[Example], answers: Answers, counts: Yield
    ) -> list[PairExample]:
        """Numbered by their items."""
        pairs: list[PairExample] = []
        for index, example in enumerate(examples):
            prompt = item_prompt(index, example)
            counts.visits += 1
            reason = self._refusal(run, prompt)
            if not reason and item_response(prompt, example) == answers[index].ids:
                reason = "opponent equals data set"
            if reason:
                counts.skipped[reason] += 1
                continue
            generated = example_from_parts(prompt.ids, answers[index].ids)
            pairs.append(PairExample(index, example, generated))
        counts.prompts = len(examples)
        counts.pairs += len(pairs)
        return pairs

    def _refusal(self, run: StageRun, prompt: Prompt) -> str:
        """Why the opponent is not asked, or nothing."""
        if self.max_prompt_tokens is not None and len(prompt.ids) > self.max_prompt_tokens:
            return "prompt longer than max_prompt_tokens"
        if not prompt.ids or self._room(run, prompt) <= 0:
            return "no room for the opponent's response"
        return ""

    def _answers(self, run: StageRun, prompts: list[Prompt], iteration: int, part: str) -> Answers:
        """The opponent's answers, shard by shard; finished shards are kept."""
        store = _answer_store(run, iteration, part)
        usable = [prompt for prompt in prompts if not self._refusal(run, prompt)]
        size = run.env.generation.shard_size
        sampler = CandidateSampler(
            run.env.generator(),
            run.env.codec,
            num=1,
            sampling=self.opponent.sampling(),
            max_new_tokens=max((self._room(run, prompt) for prompt in usable), default=1),
            max_seq_len=self._limit(run),
            policy_name=f"{run.name}, iteration {iteration + 1}",
            seed=(*run.seed, iteration, part),
        )
        found: list[Candidate] = []
        label = f"opponent's answers, iteration {iteration + 1}"
        with run.env.reporter.phase(label, len(usable), "answers") as phase:
            for shard in count():
                if len(found) >= len(usable):
                    break
                if not store.has(Candidate, shard):
                    visits = [(prompt, 0) for prompt in usable[len(found) : len(found) + size]]
                    sampled = sampler.sample(visits, on_progress=lambda done, _: phase.advance(done))
                    store.write(Candidate, shard, [own for (own,) in sampled], {})
                answers = store.read(Candidate, shard)
                due = [prompt.index for prompt in usable[len(found) : len(found) + len(answers)]]
                if not answers or [answer.prompt_index for answer in answers] != due:
                    raise CheckpointError(
                        f"{store.path(Candidate, shard)} holds the answers to other items than are now due "
                        "there; which items are played with has changed since. Take that back, or remove "
                        f"{store.folder} to sample all of them again"
                    )
                run.watch.sampled(shard, answers)
                found += answers
        return {candidate.prompt_index: candidate for candidate in found}

    def _limit(self, run: StageRun) -> int | None:
        limits = [n for n in (self.max_seq_len, run.env.policy.max_length) if n is not None]
        return min(limits) if limits else None

    def _room(self, run: StageRun, prompt: Prompt) -> int:
        limit = self._limit(run)
        wanted = self.opponent.max_new_tokens or 256
        if limit is None:
            return wanted
        room = limit - len(prompt.ids)
        # max_seq_len, where it is given, is the opponent's budget; without it 256 new tokens are.
        by_length = self.max_seq_len is not None and self.opponent.max_new_tokens is None
        return room if by_length else min(wanted, room)


def _answer_store(run: StageRun, iteration: int, part: str) -> ShardStore:
    return ShardStore(run.folder / f"iteration-{iteration + 1}-{part}")


def _numbered(pairs: list[PairExample]) -> list[PairExample]:
    """By their places, as a reference counts them."""
    return [replace(pair, index=place) for place, pair in enumerate(pairs)]


def _steps_folder(iteration: int) -> str:
    return "steps" if iteration == 0 else f"steps-iteration-{iteration + 1}"

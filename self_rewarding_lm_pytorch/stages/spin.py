"""SPIN self-play (2401.01335): the data set's response against the frozen opponent's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from self_rewarding_lm_pytorch.data.items import check_files, supervised_examples
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.records import Candidate, Example, PairExample, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.dpo import PairTraining
from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings
from self_rewarding_lm_pytorch.stages.sft import read_examples
from self_rewarding_lm_pytorch.stages.training import train_on_pairs
from self_rewarding_lm_pytorch.text import example_from_parts
from self_rewarding_lm_pytorch.training.settings import PreferenceSettings


class SPINTraining(PairTraining):
    """beta is the paper's lambda."""

    loss: str = "spin"
    epochs: int = Field(default=2, ge=1)


class OpponentSettings(SamplingSettings):
    """How the frozen opponent answers."""

    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


class SPINStage(StageConfig):
    """In each iteration the policy as it stands becomes opponent: it generates and is the reference."""

    kind: Literal["spin"] = "spin"
    data: Any
    valid_data: Any = None
    num_iterations: Annotated[int, Field(ge=1)] = 1
    max_seq_len: Annotated[int, Field(ge=2)] | None = None  # the opponent's prompt + response
    opponent: OpponentSettings = Field(default_factory=OpponentSettings)
    train: SPINTraining = Field(default_factory=SPINTraining)

    def check(self, env: Environment) -> None:
        super().check(env)
        for source in (self.data, self.valid_data):
            check_files(supervised_examples, source, env.policy, env.codec, base=env.base)

    def run(self, run: StageRun) -> StageOutcome:
        examples = read_examples(run, self.data, "data")
        valid = read_examples(run, self.valid_data, "valid") if self.valid_data is not None else []
        total = StageOutcome()
        for iteration in range(self.num_iterations):
            own = self._play(run, examples, iteration, "data", total)
            if not run.store.has(PreferencePair, iteration):
                run.store.write(PreferencePair, iteration, _records(run, own, iteration), {})
            held_out = self._play(run, valid, iteration, "valid", StageOutcome()) if valid else []
            settings: PreferenceSettings = self.train
            outcome = train_on_pairs(
                run, own, settings, valid=held_out, steps_folder=_steps_folder(iteration)
            )
            total.train_seconds += outcome.train_seconds
            total.metrics = outcome.metrics
            total.num_pairs += len(own)
        return total

    def _play(
        self, run: StageRun, examples: Sequence[Example], iteration: int, part: str, total: StageOutcome
    ) -> list[PairExample]:
        """Pairs of the data set's response and the opponent's; unusable prompts are counted."""
        prompts = [_prompt(i, example) for i, example in enumerate(examples)]
        started = time.monotonic()
        answers = self._answers(run, prompts, iteration, part)
        total.generate_seconds += time.monotonic() - started
        total.tokens_generated += sum(len(candidate.ids) for candidate in answers.values())
        pairs: list[PairExample] = []
        for prompt, example in zip(prompts, examples, strict=True):
            total.counts.visits += 1
            reason = _unusable(prompt, example, answers.get(prompt.index))
            if reason:
                total.counts.skipped[reason] += 1
                continue
            generated = example_from_parts(prompt.ids, answers[prompt.index].ids)
            pairs.append(PairExample(len(pairs), example, generated))
        total.counts.prompts = len(prompts)
        total.counts.candidates += len(answers)
        total.counts.pairs += len(pairs)
        if not pairs:
            raise DataError(
                f"stage {run.name!r}: none of {len(prompts)} items gave a pair "
                f"({dict(total.counts.skipped)}); raise max_seq_len or look at the prompt lengths"
            )
        return pairs

    def _answers(
        self, run: StageRun, prompts: list[Prompt], iteration: int, part: str
    ) -> dict[int, Candidate]:
        """The opponent's answers, shard by shard; finished shards are kept."""
        store = ShardStore(run.folder / f"iteration-{iteration + 1}-{part}")
        usable = [prompt for prompt in prompts if prompt.ids and self._room(run, prompt) > 0]
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
            for shard, start in enumerate(range(0, len(usable), size)):
                if not store.has(Candidate, shard):
                    visits = [(prompt, 0) for prompt in usable[start : start + size]]
                    sampled = sampler.sample(visits, on_progress=lambda done, _: phase.advance(done))
                    store.write(Candidate, shard, [own for (own,) in sampled], {})
                found += store.read(Candidate, shard)
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


def _steps_folder(iteration: int) -> str:
    return "steps" if iteration == 0 else f"steps-iteration-{iteration + 1}"


def _prompt(index: int, example: Example) -> Prompt:
    """The tokens before the first target."""
    first = int(torch.nonzero(example.is_target)[0])
    return Prompt(index, "", tuple(example.ids[:first].tolist()))


def _records(run: StageRun, pairs: Sequence[PairExample], iteration: int) -> list[PreferencePair]:
    """The pairs as they are stored: the opponent's iteration is the visit."""
    codec = run.env.codec
    # Behind a chat template the prompt's own text can no longer be told; it is then left empty.
    is_plain = codec is not None and not getattr(codec, "has_chat_template", False)

    def text(ids: tuple[int, ...]) -> str:
        return codec.decode(ids) if codec is not None else ""

    made = []
    for pair in pairs:
        prompt = _prompt(pair.index, pair.chosen)
        chosen, rejected = (
            tuple(side.ids[len(prompt.ids) :].tolist()) for side in (pair.chosen, pair.rejected)
        )
        made.append(
            PreferencePair(
                prompt_index=pair.index,
                visit=iteration,
                prompt=text(prompt.ids) if is_plain else "",
                chosen=text(chosen),
                rejected=text(rejected),
                prompt_ids=prompt.ids,
                chosen_ids=chosen,
                rejected_ids=rejected,
            )
        )
    return made


def _unusable(prompt: Prompt, example: Example, answer: Candidate | None) -> str:
    if answer is None:
        return "no room for the opponent's response"
    if tuple(example.ids[len(prompt.ids) :].tolist()) == answer.ids:
        return "opponent equals data set"
    return ""

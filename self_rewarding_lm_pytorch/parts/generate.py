"""Candidates of prompts, without a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.readers import each_row, file_hashes
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.parts.models import NamedModel
from self_rewarding_lm_pytorch.parts.row_file import Row, RowFile
from self_rewarding_lm_pytorch.parts.rows import written
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.records import Candidate, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.budgets import DEFAULT_RESPONSE, own_budget
from self_rewarding_lm_pytorch.stages.prompts import read_prompts
from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings
from self_rewarding_lm_pytorch.text import source_of

Seed = tuple[int | str, ...]


@dataclass(frozen=True)
class Generation:
    """What decides the candidates of a model and a file of prompts.

    seed: how each address begins. A stage's is (run's seed, stage's number from 1, stage's name); with it and
        the stage's settings, the candidates are those of its first visit to each prompt.
    """

    prompts: str
    num: int
    sampling: SamplingSettings
    max_new_tokens: int | None
    seed: Seed
    limit: int | None = None
    with_ids: bool = False
    skip_long: bool = False  # leave out prompts behind which the context has no room for max_new_tokens

    def settings(self) -> dict[str, Any]:
        """JSON of all of it, for the file that the rows go to."""
        return {
            "prompts": sorted(file_hashes(self.prompts).values()),
            "num": self.num,
            "sampling": self.sampling.model_dump(mode="json"),
            "max_new_tokens": self.max_new_tokens,
            "seed": list(self.seed),
            "limit": self.limit,
            "with_ids": self.with_ids,
            "skip_long": self.skip_long,
        }


@dataclass(frozen=True)
class Generated:
    """What came of it, over all rows of the file."""

    out: Path
    prompts: int  # with candidates
    skipped_prompts: int  # too long
    candidates: int
    tokens: int
    finish_reasons: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return {"command": "generate", **vars(self), "out": str(self.out)}


def generate(env: Environment, named: NamedModel, what: Generation, out: Path) -> Generated:
    """Writes every prompt's candidates to `out`; goes on where an earlier call was cut off.

    Raises DataError for prompts that cannot be used, ConfigError for a file made by other settings.
    """
    given = read_prompts(env, what.prompts, "generate", limit=what.limit)
    prompts = _answerable(env, what, given)
    file = RowFile(out, {"command": "generate", **named.identity(env.policy), **what.settings()})
    size = env.generation.shard_size
    ends = [what.num * min(start + size, len(prompts)) for start in range(0, len(prompts), size)]
    kept = file.begin(ends)
    if not file.is_finished:
        texts = written([source_of(prompt) for prompt in given])
        _make(env, what, prompts, texts, kept, file)
        file.finish()
    return _summary(out, len(given) - len(prompts))


def _answerable(env: Environment, what: Generation, prompts: list[Prompt]) -> list[Prompt]:
    """The prompts that can be answered. Raises ConfigError where others are not to be skipped, or all are."""
    context, wanted = env.policy.max_length, what.max_new_tokens or DEFAULT_RESPONSE
    if context is None:
        return prompts
    room = context - (wanted if what.skip_long else 1)
    kept = [prompt for prompt in prompts if len(prompt.ids) <= room]
    long = next((prompt for prompt in prompts if len(prompt.ids) > room), None)
    if long is None or (what.skip_long and kept):
        return kept
    remedy = "lower --max-new-tokens" if what.skip_long else "take them out, or leave them out by --skip-long"
    raise ConfigError(
        f"{len(prompts) - len(kept):,} of {len(prompts):,} prompts leave no room for an answer in the "
        f"model's context of {context} tokens; the first is prompt {long.index}, {len(long.ids):,} tokens, "
        f"{long.text[:60]!r}: {remedy}"
    )


def _make(
    env: Environment, what: Generation, prompts: list[Prompt], texts: Sequence[Any], kept: int, file: RowFile
) -> None:
    sampler = _sampler(env, what, prompts)
    first, size = kept // what.num, env.generation.shard_size
    if first:
        env.reporter.say(f"{first:,} prompts are answered already, in {file.partial}")
    todo = what.num * (len(prompts) - first)
    with env.reporter.phase("answers", todo, "answers") as phase:
        for start in range(first, len(prompts), size):
            part = prompts[start : start + size]
            found = sampler.sample(
                [(prompt, 0) for prompt in part], on_progress=lambda done, _: phase.advance(done)
            )
            file.add([_row(each, texts[each.prompt_index], what) for own in found for each in own])


def _sampler(env: Environment, what: Generation, prompts: Sequence[Prompt]) -> CandidateSampler:
    context = env.policy.max_length
    budget = own_budget("generate", prompts, wanted=what.max_new_tokens, context=context, max_seq_len=None)
    for note in budget.notes:
        env.reporter.say(note)
    return CandidateSampler(
        env.generator(),
        env.codec,
        num=what.num,
        sampling=what.sampling.sampling(),
        max_new_tokens=budget.response,
        max_seq_len=None,
        policy_name="generate",
        seed=what.seed,
    )


def _row(candidate: Candidate, prompt: Any, what: Generation) -> Row:
    row: Row = {
        "prompt_index": candidate.prompt_index,
        "candidate": candidate.index,
        "prompt": prompt,
        "response": candidate.text,
        "finish_reason": candidate.finish_reason,
        "tokens": len(candidate.ids),
        "key": candidate.key,
    }
    return {**row, "ids": list(candidate.ids)} if what.with_ids else row


def _summary(out: Path, num_skipped: int) -> Generated:
    """Counts of a finished file."""
    prompts: set[int] = set()
    tokens = number = 0
    reasons: Counter[str] = Counter()
    for row in each_row(out):
        prompts.add(row["prompt_index"])
        tokens += row["tokens"]
        reasons[row["finish_reason"]] += 1
        number += 1
    return Generated(out, len(prompts), num_skipped, number, tokens, dict(sorted(reasons.items())))

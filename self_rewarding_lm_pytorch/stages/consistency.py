"""Labels believed as far as two iterates agree on them: CREAM (2410.12735)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Literal

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import CheckpointError, DataError
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.preferences.consistency import agreement, certainties
from self_rewarding_lm_pytorch.progress import Phase
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import Settings, StageRun

Place = tuple[int, int]  # a prompt's index and the visit's number


class ConsistencySettings(Settings):
    """past: whose ranking is compared with the policy's: a stage of this run, or initial (the paper: the
    iterate before). per: each label's own agreement, or the mean of all (the authors' code has both).
    """

    past: str
    per: Literal["pair", "mean"] = "mean"


def label_certainties(
    run: StageRun,
    settings: ConsistencySettings,
    prompts: Sequence[Prompt],
    pairs: Sequence[PreferencePair],
    judge: Judge,
) -> list[float]:
    """The certainty of each pair. judge: the past iterate's; its judgments are stored, shard by shard.

    pairs: all of the stage's, in the order of their shards.
    Raises DataError where not one visit's candidates could be ranked by both.
    """
    agreements = list(_agreements(run, prompts, pairs, judge))
    try:
        found = certainties(agreements, per_pair=settings.per == "pair")
    except ValueError as error:
        raise DataError(
            f"stage {run.name!r}: {error} (the policy and {settings.past!r}, over {len(agreements)} pairs), "
            "so how far the labels can be believed is not known; name a model that can judge, or leave "
            "consistency out"
        ) from error
    unknown = sum(value is None for value in agreements)
    run.env.reporter.say(
        f"  labels are believed to {fmean(found):.3f} on average: how far {settings.past} orders the "
        f"candidates alike (of {len(agreements):,} pairs {unknown:,} could not be compared and get the mean)"
    )
    return found


def _agreements(
    run: StageRun, prompts: Sequence[Prompt], pairs: Sequence[PreferencePair], judge: Judge
) -> Iterator[float | None]:
    """Of each pair, in order; of judgments and pairs one shard is held at a time."""
    store = ShardStore(run.folder / "past")
    by_index = {prompt.index: prompt for prompt in prompts}
    left = iter(pairs)
    pair = next(left, None)
    for shard in range(run.store.num_shards(Judgment)):
        ours = _scores(run.store, shard)
        places: list[Place] = []
        while pair is not None and (place := (pair.prompt_index, pair.visit)) in ours:
            places.append(place)
            pair = next(left, None)
        _judge(run, store, shard, by_index, set(places), judge)
        theirs = _scores(store, shard)
        for place in places:
            yield agreement(*_aligned(ours[place], theirs.get(place, {})))
    if pair is not None:
        raise CheckpointError(
            f"stage {run.name!r}: the pair of prompt {pair.prompt_index}, visit {pair.visit} has no stored "
            "judgments, so how far its label can be believed is not known; begin the run anew (--fresh)"
        )


def _judge(
    run: StageRun,
    store: ShardStore,
    shard: int,
    by_index: dict[int, Prompt],
    wanted: set[Place],
    judge: Judge,
) -> None:
    """Stores the past iterate's judgments of a shard's candidates of visits that gave a pair."""
    if store.has(Judgment, shard):
        return
    shown = [
        (by_index[candidate.prompt_index], candidate)
        for candidate in run.store.read(Candidate, shard)
        if (candidate.prompt_index, candidate.visit) in wanted
    ]
    total = len(shown) * max(1, judge.num_votes)
    with run.env.reporter.phase(f"shard {shard + 1}: the past's votes", total, "votes") as phase:
        judgments = judge.judge(shown, on_progress=partial(_advanced, phase)) if shown else []
    store.write(Judgment, shard, judgments, {})


def _advanced(phase: Phase, done: int, sampled: int) -> None:
    phase.advance(done)


def past_run(run: StageRun, past: str) -> StageRun:
    """The run as the past iterate's judge sees it: its own weights, and random numbers of its own."""
    env = replace(run.env, policy=run.env.past_policy(past))
    return replace(run, env=env, name=f"{run.name}, past")


def _scores(store: ShardStore, shard: int) -> dict[Place, dict[int, float | None]]:
    found: dict[Place, dict[int, float | None]] = {}
    for judgment in store.read(Judgment, shard):
        found.setdefault((judgment.prompt_index, judgment.visit), {})[judgment.candidate_index] = (
            judgment.score
        )
    return found


def _aligned(
    ours: dict[int, float | None], theirs: dict[int, float | None]
) -> tuple[list[float | None], list[float | None]]:
    return list(ours.values()), [theirs.get(index) for index in ours]

"""One shard of a search for pairs: answers, votes and pairs, each stored before the next begins."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.preferences.candidates import Sampler
from self_rewarding_lm_pytorch.preferences.yields import Yield
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Prompt, Skipped

Visit = tuple[Prompt, int]
Pool = tuple[list[Candidate], list[Judgment]]
"""Candidates that earlier visits to a prompt left unpaired, and their judgments."""


class Left(NamedTuple):
    """A visit that gave no pair, and the shard that has its candidates."""

    shard: int
    prompt_index: int
    visit: int


class Rule(Protocol):
    """How a visit's judged candidates become a pair."""

    def pair(
        self, prompt: Prompt, visit: int, candidates: Sequence[Candidate], judgments: Sequence[Judgment]
    ) -> PreferencePair | Skipped: ...


@dataclass
class Work:
    """What a search did, over all its shards."""

    counts: Yield = field(default_factory=Yield)
    tokens_generated: int = 0
    generate_seconds: float = 0.0
    judge_seconds: float = 0.0


class Shards:
    """Does shards that are not stored yet, reads the others, and adds up their work."""

    def __init__(
        self, sampler: Sampler, judge: Judge, rule: Rule, store: ShardStore, reporter: Reporter
    ) -> None:
        self._sampler = sampler
        self._judge = judge
        self._rule = rule
        self._store = store
        self._reporter = reporter
        self.work = Work()

    def done(
        self, shard: int, visits: Sequence[Visit], missing: int | None, pools: Sequence[Pool] | None = None
    ) -> list[PreferencePair]:
        """The pairs of a shard. missing: at most so many. pools: what each visit begins with."""
        pools = pools or [([], []) for _ in visits]
        if (stored := self.stored_visits(shard)) and stored != [(p.index, visit) for p, visit in visits]:
            raise CheckpointError(
                f"{self._store.path(Candidate, shard)} holds the answers of other visits than are now due "
                f"there: {stored[:4]} (prompt, visit), not {[(p.index, v) for p, v in visits][:4]}. What "
                "decides the order of visits has changed since; take that back, or remove the folders "
                f"candidates, judgments and pairs in {self._store.folder} to sample all of it again"
            )
        if not self._store.has(PreferencePair, shard):
            candidates = self._candidates(shard, visits, pools)
            judgments = self._judgments(shard, visits, pools, candidates)
            self._pair_up(shard, visits, pools, candidates, judgments, missing)
        self._add_work(shard)
        return self._store.read(PreferencePair, shard)

    def stored_visits(self, shard: int) -> list[tuple[int, int]]:
        """Prompt and visit of those whose answers the shard holds, however large shards were then."""
        if not self._store.has(Candidate, shard):
            return []
        return list(_by_visit(self._store.read(Candidate, shard)))

    def skipped(self, shard: int) -> list[Skipped]:
        """The visits of a finished shard that gave no pair."""
        return [Skipped(**entry) for entry in self._store.notes(PreferencePair, shard)["skipped"]]

    def pools(self, left: Sequence[Sequence[Left]]) -> list[Pool]:
        """What earlier visits left: for each of several prompts, those of its visits named, in that order.

        Each shard is read once and let go before the next.
        """
        found: dict[Left, Pool] = {place: ([], []) for own in left for place in own}
        for shard in sorted({place.shard for place in found}):
            judgments = self._store.read(Judgment, shard)
            for candidate, judgment in zip(self._store.read(Candidate, shard), judgments, strict=True):
                place = Left(shard, candidate.prompt_index, candidate.visit)
                if place in found:
                    found[place][0].append(candidate)
                    found[place][1].append(judgment)
        return [_joined([found[place] for place in own]) for own in left]

    def _candidates(self, shard: int, visits: Sequence[Visit], pools: Sequence[Pool]) -> list[Candidate]:
        if self._store.has(Candidate, shard):
            return self._store.read(Candidate, shard)
        total = len(visits) * self._sampler.num
        with (
            _Clock() as clock,
            self._reporter.phase(f"shard {shard + 1}: answers", total, "answers") as phase,
        ):
            sampled = self._sampler.sample(visits, on_progress=lambda done, _: phase.advance(done))
        candidates = [
            replace(candidate, visit=visit, index=index)
            for (_, visit), (kept, _), own in zip(visits, pools, sampled, strict=True)
            for index, candidate in enumerate([*kept, *own])
        ]
        tokens = sum(len(candidate.ids) for own in sampled for candidate in own)
        self._store.write(Candidate, shard, candidates, {"seconds": clock.seconds, "tokens": tokens})
        return candidates

    def _judgments(
        self, shard: int, visits: Sequence[Visit], pools: Sequence[Pool], candidates: list[Candidate]
    ) -> list[Judgment]:
        if self._store.has(Judgment, shard):
            return self._store.read(Judgment, shard)
        own = list(_by_visit(candidates).values())
        shown = [
            (prompt, candidate)
            for (prompt, _), (kept, _), all_of_it in zip(visits, pools, own, strict=True)
            for candidate in all_of_it[len(kept) :]
        ]
        total = len(shown) * max(1, self._judge.num_votes)
        unit = "votes" if self._judge.num_votes else "scores"
        tokens = 0
        with _Clock() as clock, self._reporter.phase(f"shard {shard + 1}: {unit}", total, unit) as phase:

            def progress(done: int, sampled: int) -> None:
                nonlocal tokens
                tokens += sampled
                phase.advance(done)

            found = iter(self._judge.judge(shown, on_progress=progress))
        judgments: list[Judgment] = []
        for (_, visit), (kept, known), all_of_it in zip(visits, pools, own, strict=True):
            judgments += [
                replace(judgment, visit=visit, candidate_index=i) for i, judgment in enumerate(known)
            ]
            judgments += [next(found) for _ in all_of_it[len(kept) :]]
        self._store.write(Judgment, shard, judgments, {"seconds": clock.seconds, "tokens": tokens})
        return judgments

    def _pair_up(
        self,
        shard: int,
        visits: Sequence[Visit],
        pools: Sequence[Pool],
        candidates: list[Candidate],
        judgments: list[Judgment],
        missing: int | None,
    ) -> None:
        counts = Yield()
        pairs: list[PreferencePair] = []
        skipped: list[Skipped] = []
        sampled, judged = (_by_visit(records).values() for records in (candidates, judgments))
        for (prompt, visit), (kept, _), own, votes in zip(visits, pools, sampled, judged, strict=True):
            counts.add_judgments(votes[len(kept) :])
            outcome = self._rule.pair(prompt, visit, own, votes)
            full = missing is not None and len(pairs) >= missing
            if full and isinstance(outcome, PreferencePair):
                outcome = Skipped(prompt.index, visit, MORE_THAN_ASKED)
            counts.add_outcome(outcome)
            if isinstance(outcome, PreferencePair):
                pairs.append(outcome)
            else:
                skipped.append(outcome)
        notes = {"yield": counts.as_dict(), "skipped": [plain(entry) for entry in skipped]}
        self._store.write(PreferencePair, shard, pairs, notes)

    def _add_work(self, shard: int) -> None:
        sampled = self._store.notes(Candidate, shard)
        judged = self._store.notes(Judgment, shard)
        self.work.generate_seconds += sampled["seconds"]
        self.work.judge_seconds += judged["seconds"]
        self.work.tokens_generated += sampled["tokens"] + judged["tokens"]
        found = self._store.notes(PreferencePair, shard)["yield"]
        for part in fields(Yield):
            if part.name == "skipped":
                self.work.counts.skipped += Counter(found["skipped"])
            else:
                total = getattr(self.work.counts, part.name) + found[part.name]
                setattr(self.work.counts, part.name, total)


MORE_THAN_ASKED = "more than asked for"
"""Why a pair that was found is not kept."""


def plain(entry: Skipped) -> dict[str, Any]:
    """As JSON has it."""
    return {"prompt_index": entry.prompt_index, "visit": entry.visit, "reason": entry.reason}


def _joined(pools: Sequence[Pool]) -> Pool:
    return [each for own, _ in pools for each in own], [each for _, own in pools for each in own]


def _by_visit(records: Sequence[Any]) -> dict[tuple[int, int], list[Any]]:
    """The records of each prompt and visit, in their order: those of its pool, then new ones.

    Stored ones may be more or fewer than are sampled now, where a changed plan was gone on with.
    """
    found: dict[tuple[int, int], list[Any]] = {}
    for record in records:
        found.setdefault((record.prompt_index, record.visit), []).append(record)
    return found


class _Clock:
    """Seconds spent in a `with` block."""

    seconds = 0.0

    def __enter__(self) -> _Clock:
        self._start = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.monotonic() - self._start

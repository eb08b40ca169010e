"""Candidates and judgments of an earlier search, used again in place of new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.generation.requests import OnProgress
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.preferences.candidates import Sampler
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt

Place = tuple[int, int]  # a prompt's index and the visit's number

HELD_SHARDS = 2
"""Shards whose records are held. A search that visits the same prompts in shards of other sizes needs two."""


@dataclass
class _Shard:
    candidates: dict[Place, list[Candidate]] = field(default_factory=dict)
    judgments: dict[int, Judgment] = field(default_factory=dict)  # by their candidates' keys


class StoredVisits:
    """What a store has of each visit. Held are where the visits are, and the last shards that were read."""

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        self._shards = {
            (candidate.prompt_index, candidate.visit): shard
            for shard in range(store.num_shards(Candidate))
            for candidate in store.read(Candidate, shard)
        }
        self._held: dict[int, _Shard] = {}

    def has(self, place: Place) -> bool:
        return place in self._shards

    def candidates(self, place: Place) -> list[Candidate]:
        """Of a visit; none where it is not known."""
        return self._shard(place).candidates.get(place, [])

    def judgment(self, candidate: Candidate) -> Judgment | None:
        """Of the candidate with these random numbers in the same visit."""
        return self._shard((candidate.prompt_index, candidate.visit)).judgments.get(candidate.key)

    def _shard(self, place: Place) -> _Shard:
        number = self._shards.get(place)
        if number is None:
            return _Shard()
        if number not in self._held:
            if len(self._held) == HELD_SHARDS:
                del self._held[next(iter(self._held))]
            self._held[number] = self._read(number)
        return self._held[number]

    def _read(self, number: int) -> _Shard:
        found = _Shard()
        candidates = self._store.read(Candidate, number)
        for candidate in candidates:
            found.candidates.setdefault((candidate.prompt_index, candidate.visit), []).append(candidate)
        judged = zip(candidates, self._store.read(Judgment, number), strict=True)
        found.judgments = {candidate.key: judgment for candidate, judgment in judged}
        return found


class RememberedSampler:
    """Gives a visit the candidates that the store has of it; where there are none, `sampler` is asked."""

    def __init__(self, sampler: Sampler, store: ShardStore) -> None:
        self.num = sampler.num
        self._sampler = sampler
        self._known = StoredVisits(store)

    def sample(
        self, visits: Sequence[tuple[Prompt, int]], *, on_progress: OnProgress | None = None
    ) -> list[list[Candidate]]:
        new = [(prompt, visit) for prompt, visit in visits if not self._known.has((prompt.index, visit))]
        if on_progress is not None:
            on_progress((len(visits) - len(new)) * self.num, 0)
        sampled = iter(self._sampler.sample(new, on_progress=on_progress) if new else [])
        return [
            list(known) if (known := self._known.candidates((prompt.index, visit))) else next(sampled)
            for prompt, visit in visits
        ]


class RememberedJudge:
    """Gives a candidate the judgment that the store has of it; `judge` is asked about the others.

    A candidate is known by the address of its random numbers, so it may stand elsewhere in its visit now.
    """

    def __init__(self, judge: Judge, store: ShardStore) -> None:
        self.num_votes = judge.num_votes
        self._judge = judge
        self._known = StoredVisits(store)

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        known = [self._known.judgment(candidate) for _, candidate in shown]
        new = [each for each, judgment in zip(shown, known, strict=True) if judgment is None]
        if on_progress is not None:
            on_progress((len(shown) - len(new)) * max(1, self.num_votes), 0)
        judged = iter(self._judge.judge(new, on_progress=on_progress) if new else [])
        return [
            replace(judgment, candidate_index=candidate.index) if judgment is not None else next(judged)
            for (_, candidate), judgment in zip(shown, known, strict=True)
        ]

"""What a stage's alarms count of its candidates and judgments; the memory it takes does not grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from self_rewarding_lm_pytorch.records import Candidate, Judgment

_KEPT = 256


class CommonestScore:
    """Which score is given most often, in four significant digits.

    Exact while no more than 256 different ones have come; beyond, a count may be too low by one in 257 of
    all at most (Misra and Gries, 1982).
    """

    def __init__(self) -> None:
        self.num = 0
        self._counts: dict[float, int] = {}

    def add(self, score: float) -> None:
        self.num += 1
        score = float(f"{score:.4g}")
        if score in self._counts or len(self._counts) < _KEPT:
            self._counts[score] = self._counts.get(score, 0) + 1
        else:
            self._counts = {known: count - 1 for known, count in self._counts.items() if count > 1}

    @property
    def top(self) -> tuple[float | None, int]:
        """The score and how often it came; the lowest of those as common."""
        if not self._counts:
            return None, 0
        return min(self._counts.items(), key=lambda each: (-each[1], each[0]))


@dataclass
class Tally:
    """Sums over shards; the names are those of `alarms.Numbers`."""

    votes: int = 0
    votes_parsed: int = 0
    compared: int = 0
    tied: int = 0
    candidates: int = 0
    tokens: int = 0
    cut_off: int = 0
    grouped: int = 0
    repeated: int = 0
    scores: CommonestScore = field(default_factory=CommonestScore)

    def add_candidates(self, candidates: Sequence[Candidate], again: Collection[int] = ()) -> None:
        """A shard's. again: the addresses of those that earlier visits left, which were counted there."""
        for _, group in groupby(candidates, key=lambda each: (each.prompt_index, each.visit)):
            visit = list(group)
            new = [candidate for candidate in visit if candidate.key not in again]
            self.candidates += len(new)
            self.tokens += sum(len(candidate.ids) for candidate in new)
            self.cut_off += sum(candidate.finish_reason == "length" for candidate in new)
            if len(visit) > 1:
                counts = Counter(candidate.ids for candidate in visit)
                self.grouped += len(new)
                self.repeated += sum(counts[candidate.ids] > 1 for candidate in new)

    def add_judgments(
        self, candidates: Sequence[Candidate], judgments: Sequence[Judgment], again: Collection[int] = ()
    ) -> None:
        """A shard's, in the order of its candidates."""
        both = zip(candidates, judgments, strict=True)
        for _, group in groupby(both, key=lambda each: (each[0].prompt_index, each[0].visit)):
            visit = list(group)
            found = [judgment.score for _, judgment in visit if judgment.score is not None]
            if len(found) > 1:
                self.compared += 1
                self.tied += min(found) == max(found)
            for candidate, judgment in visit:
                if candidate.key not in again:
                    self._add_votes(judgment)

    def _add_votes(self, judgment: Judgment) -> None:
        for vote in judgment.votes:
            self.votes += vote.status != "forced"
            self.votes_parsed += vote.status in ("parsed", "expected")
            if vote.score is not None:
                self.scores.add(vote.score)
        if not judgment.votes and judgment.score is not None:  # a reward model's or function's
            self.scores.add(judgment.score)

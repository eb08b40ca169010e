"""How much came out of each step of a search for pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from self_rewarding_lm_pytorch.records import Judgment, PreferencePair, Skipped


@dataclass
class Yield:
    """Counts; they add up over shards."""

    prompts: int = 0  # different prompts visited
    visits: int = 0
    candidates: int = 0
    votes: int = 0  # readings by a judge: parsed + unparsed
    votes_parsed: int = 0  # those with a score: parsed from what was written, or expected
    votes_forced: int = 0  # scores forced after an unparsed vote; not counted in votes
    votes_unparsed: int = 0
    pairs: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> visits

    def add_judgments(self, judgments: Sequence[Judgment]) -> None:
        self.candidates += len(judgments)
        statuses = Counter(vote.status for judgment in judgments for vote in judgment.votes)
        scored = statuses["parsed"] + statuses["expected"]
        self.votes_parsed += scored
        self.votes_unparsed += statuses["unparsed"]
        self.votes_forced += statuses["forced"]
        self.votes += scored + statuses["unparsed"]

    def add_outcome(self, outcome: PreferencePair | Skipped) -> None:
        self.visits += 1
        if isinstance(outcome, Skipped):
            self.skipped[outcome.reason] += 1
        else:
            self.pairs += 1

    def as_dict(self) -> dict[str, Any]:
        """The form of summary.json."""
        return {**vars(self), "skipped": dict(sorted(self.skipped.items()))}

    def lines(self) -> list[str]:
        """The table in words."""
        rows: list[tuple[str, int]] = [("prompts", self.prompts), ("visits", self.visits)]
        rows += [("candidates", self.candidates)]
        if self.votes:
            rows += [("votes", self.votes), ("  parsed", self.votes_parsed)]
            rows += [("  unparsed", self.votes_unparsed), ("  forced after that", self.votes_forced)]
        rows += [("pairs", self.pairs)]
        rows += [(f"  no pair: {reason}", count) for reason, count in sorted(self.skipped.items())]
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {count:>9,}" for name, count in rows]

"""What a judge is."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Protocol

from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt, Vote

TOO_LONG = "judge prompt of"
"""How the reason of a judgment begins that did not fit the judge's context."""

OnProgress = Callable[[int, int], None]
"""Called with (units finished, tokens sampled) since the last call."""


class Judge(Protocol):
    """Scores candidates. Absent is not zero: what cannot be scored has score None and a reason."""

    num_votes: int  # readings of each candidate; 0 where one number is computed

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        """One judgment for each candidate, in order."""
        ...


def too_long(length: int, limit: int | None) -> str:
    """Why a judge prompt of `length` tokens is left unscored; empty where it is within its limit."""
    if limit is None or length <= limit:
        return ""
    return f"{TOO_LONG} {length} tokens is over its limit of {limit}"


def judgment_of(candidate: Candidate, votes: Sequence[Vote], reason: str = "") -> Judgment:
    """The mean of the votes that have a score; `reason` is why there are no votes at all."""
    scores = [vote.score for vote in votes if vote.score is not None]
    return Judgment(
        prompt_index=candidate.prompt_index,
        visit=candidate.visit,
        candidate_index=candidate.index,
        score=fmean(scores) if scores else None,
        votes=tuple(votes),
        reason="" if scores else reason or "no vote has a score",
    )

"""A vote in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from self_rewarding_lm_pytorch.records import Judgment, Vote
from self_rewarding_lm_pytorch.report.words import percent

_COMPARISON = re.compile(r"(shown (?:first|second), against )candidate_index (\d{1,6})")
_REASONS = {  # what judges call the ways in which reading a score can fail
    "no_score": "no score found",
    "out_of_range": "its score is out of range",
    "ambiguous": "its score can be read in more than one way",
    "not_finite": "its score is not a finite number",
    "timeout": "reading it took too long",
}


def distribution(vote: Vote) -> str:
    """How likely each score was where the scores were read, as "0: 1 %, 1: 99 %"; else empty."""
    if not vote.probabilities or vote.score is None:
        return ""
    # The scores are whole numbers in a row and the vote's score is their mean: it says the lowest.
    low = round(vote.score - sum(n * share for n, share in enumerate(vote.probabilities)))
    shares = (percent(share) for share in vote.probabilities)
    return ", ".join(f"{score}: {share}" for score, share in enumerate(shares, start=low))


def is_compared(judgment: Judgment) -> bool:
    """Whether its votes are comparisons; one vote alone could be a judge's own words."""
    return len(judgment.votes) > 1 and all(_COMPARISON.fullmatch(vote.text) for vote in judgment.votes)


def are_compared(judgments: Sequence[Judgment]) -> bool:
    """Whether they all are, those aside that no vote was given for."""
    voted = [judgment for judgment in judgments if judgment.votes]
    return bool(voted) and all(map(is_compared, voted))


def comparison(vote: Vote, numbers: Mapping[int, int]) -> str:
    """A comparison's place and its other response. numbers: candidate index -> what its card is called."""

    def named(found: re.Match[str]) -> str:
        index = int(found[2])
        return f"{found[1]}No. {numbers.get(index, index + 1)}"

    return _COMPARISON.sub(named, vote.text)


def reason(vote: Vote) -> str:
    """Why it has no score; a judge's own words stay as they are."""
    return _REASONS.get(vote.reason, vote.reason)

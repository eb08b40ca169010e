"""A vote in words."""

from __future__ import annotations

from self_rewarding_lm_pytorch.records import Vote
from self_rewarding_lm_pytorch.report.words import percent


def distribution(vote: Vote) -> str:
    """How likely each score was where the scores were read, as "0: 1 %, 1: 99 %"; else empty."""
    if not vote.probabilities or vote.score is None:
        return ""
    # The scores are whole numbers in a row and the vote's score is their mean: it says the lowest.
    low = round(vote.score - sum(n * share for n, share in enumerate(vote.probabilities)))
    shares = (percent(share) for share in vote.probabilities)
    return ", ".join(f"{score}: {share}" for score, share in enumerate(shares, start=low))

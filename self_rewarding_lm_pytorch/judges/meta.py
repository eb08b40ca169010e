"""The meta-judge: two judgments of one response are compared as two responses to the judge's prompt would be.

Meta-Rewarding Language Models (arXiv 2407.19594, section 2). The comparing is PairwiseJudge's, with a
template that shows `template.META`: what is the prompt there is all that the judge was shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt, Vote
from self_rewarding_lm_pytorch.text import Codec, reasoning_of


@dataclass(frozen=True, slots=True)
class Comparison:
    """One verdict of a meta-judge on two judgments of a response, shown in one order."""

    first: int  # candidate_index of the judgment shown first
    second: int
    first_wins: float | None  # probability that the first is the better one; None: not read, with its reason
    reason: str = ""


def shown_judgments(
    codec: Codec, judge_prompt: str, judged: Judgment, votes: Sequence[Vote]
) -> list[tuple[Prompt, Candidate]]:
    """Votes on one response as a pairwise judge is shown candidates; a vote's index is its candidate's.

    codec: the judge's. judge_prompt: what the votes are the answer to. judged: the judgment they are from.
    Reasoning before a verdict, where the codec tells it apart, is not shown.
    """
    reasoning = reasoning_of(codec)
    prompt = Prompt(judged.prompt_index, judge_prompt, codec.prompt_ids(judge_prompt))
    return [
        (
            prompt,
            Candidate(
                prompt_index=judged.prompt_index,
                visit=judged.visit,
                index=vote.index,
                ids=codec.response_ids(judge_prompt, vote.text),
                text=vote.text if reasoning is None else reasoning.answer(vote.text) or vote.text,
                finish_reason=vote.finish_reason,
                key=0,
                policy="judge",
            ),
        )
        for vote in votes
    ]


def comparisons(judgments: Sequence[Judgment]) -> Iterator[Comparison]:
    """Both orders of every two judgments of one visit, from what a PairwiseJudge said of them all.

    judgments: of one visit, in the order in which its candidates were shown. Each has two votes for each
    other one, in that order: shown first, then second. Every comparison stands with both; it is told once.
    """
    for judgment in judgments:
        others = [other for other in judgments if other is not judgment]
        for other, vote in zip(others, judgment.votes[::2], strict=True):
            read = vote.probabilities[0] if vote.probabilities else None
            yield Comparison(judgment.candidate_index, other.candidate_index, read, vote.reason)

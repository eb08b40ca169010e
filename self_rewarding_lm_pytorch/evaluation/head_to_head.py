"""Two responses to the same prompt: which does a judge prefer?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.judges.base import Judge, OnProgress
from self_rewarding_lm_pytorch.judges.pairwise import PairwiseJudge
from self_rewarding_lm_pytorch.judges.points import at_least
from self_rewarding_lm_pytorch.judges.served_pairwise import ServedPairwiseJudge
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt

Outcome = Literal["win", "tie", "loss"]

TIED = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's preference for the first of two responses."""

    preference: float | None  # 0 to 1; None: no verdict, and `reason` says why
    orders: tuple[float, ...] = ()  # of a judge that compares: for the first, shown first and shown second
    reason: str = ""

    @property
    def outcome(self) -> Outcome | None:
        """Of the first. A judge that changes its mind with the order has found no difference: a tie."""
        if self.preference is None:
            return None
        seen = self.orders or (self.preference,)
        if all(each > TIED for each in seen):
            return "win"
        return "loss" if all(each < TIED for each in seen) else "tie"


def compares(judge: Judge) -> bool:
    """Whether a judge's scores are preferences within a visit, not worths of their own.

    Ours are known; another says so in an attribute `compares`.
    """
    return isinstance(judge, PairwiseJudge | ServedPairwiseJudge) or bool(getattr(judge, "compares", False))


def verdicts(
    judge: Judge,
    prompts: Sequence[str | Prompt],
    first: Sequence[str],
    second: Sequence[str],
    *,
    tie_margin: float = 0.0,
    on_progress: OnProgress | None = None,
) -> list[Verdict]:
    """The judge's verdict on the two responses to each prompt.

    A judge that compares is shown both orders, and the preference is the mean of the two. Of other judges the
    scores are compared: 1 where the first is higher by more than `tie_margin` (points), 0 where it is lower,
    0.5 otherwise. Equal texts tie without being judged. Raises DataError where the lists differ in length.
    """
    if not len(prompts) == len(first) == len(second):
        raise DataError(
            f"{len(prompts)} prompts have {len(first)} first and {len(second)} second responses; there must "
            "be one of each for every prompt"
        )
    asked = [i for i in range(len(prompts)) if first[i] != second[i]]
    shown = []
    for i in asked:
        prompt = as_prompt(prompts[i], i)
        shown += [(prompt, as_candidate(i, 0, first[i])), (prompt, as_candidate(i, 1, second[i]))]
    judged = judge.judge(shown, on_progress=on_progress) if shown else []
    found = [Verdict(TIED)] * len(prompts)
    for place, i in enumerate(asked):
        pair = judged[2 * place], judged[2 * place + 1]
        found[i] = preferred(pair[0]) if compares(judge) else higher(*pair, tie_margin=tie_margin)
    return found


def compare(
    judge: Judge,
    prompts: Sequence[str | Prompt],
    first: Sequence[str],
    second: Sequence[str],
    *,
    tie_margin: float = 0.0,
) -> list[float | None]:
    """The preference for the first response to each prompt, 0 to 1; None: no verdict. See `verdicts`."""
    found = verdicts(judge, prompts, first, second, tie_margin=tie_margin)
    return [verdict.preference for verdict in found]


def preferred(judgment: Judgment) -> Verdict:
    """The verdict in the first response's judgment by a judge that compares."""
    orders = tuple(vote.score for vote in judgment.votes if vote.score is not None)
    if judgment.score is None:
        reasons = [vote.reason for vote in judgment.votes if vote.reason]
        return Verdict(None, reason=reasons[0] if reasons else judgment.reason)
    return Verdict(judgment.score, orders)


def higher(first: Judgment, second: Judgment, *, tie_margin: float = 0.0) -> Verdict:
    """The verdict of two scores; a lead of exactly `tie_margin` is a tie, rounding errors or not."""
    if first.score is None or second.score is None:
        which, missing = ("first", first) if first.score is None else ("second", second)
        return Verdict(None, reason=f"the {which} response has no score: {missing.reason}")
    low, high = sorted((first.score, second.score))
    if at_least(low + tie_margin, high):
        return Verdict(TIED)
    return Verdict(1.0 if first.score == high else 0.0)


def as_prompt(prompt: str | Prompt, index: int) -> Prompt:
    """A prompt as judges are shown it; text alone has no ids, so reward models over ids cannot judge it."""
    return replace(prompt, index=index) if isinstance(prompt, Prompt) else Prompt(index, prompt, ())


def as_candidate(prompt_index: int, index: int, text: str) -> Candidate:
    return Candidate(prompt_index, 0, index, (), text, "eos", 0, "")

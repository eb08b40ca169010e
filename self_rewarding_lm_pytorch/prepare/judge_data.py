"""Training data for the judge, written by the model itself and kept where it agrees with people (EFT).

Self-Rewarding LMs (arXiv 2401.10020, sections 2.2 and 3.1.1) take prompts with several ranked human
responses, let the model trained on instructions alone judge each response, keep an input and its judgment
where the scores rank the responses as people do, and then discard some of the data of the most common score,
because most scores were 4.

From the paper: the judge prompt as input, justification and score as the target, agreement in order, thinning
of scores that are too common, prompts set aside to measure the judge on (541 of 2,171, about a quarter).
Ours, where the paper is silent: agreement is decided vote by vote (a vote against the mean scores of the
responses that people put above and below), or against ratings (`agree: exact`); one kept vote for each
response; votes cut off by their budget are never taught; the share that counts as too common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from self_rewarding_lm_pytorch.judges.points import nearest
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.prepare.judge_agreement import (
    Agreement,
    agrees_exactly,
    agrees_in_order,
    has_order,
    kept_of_each,
)
from self_rewarding_lm_pytorch.prepare.judge_counts import (
    CUT_OFF,
    DISAGREEING,
    FURTHER,
    IN_OTHER_DATA,
    NO_ORDER,
    NO_RATING,
    NO_TEXT,
    NOTHING_TO_COMPARE,
    OVER_CONTEXT,
    THINNED,
    TOO_LONG_TO_TRAIN,
    UNPARSED,
    JudgeDataCounts,
)
from self_rewarding_lm_pytorch.records import JudgedPrompt, Judgment, Vote
from self_rewarding_lm_pytorch.seeds import address
from self_rewarding_lm_pytorch.text import Codec


@dataclass(frozen=True, slots=True)
class JudgeExample:
    """A judge prompt and a judgment to train on, and where it came from."""

    prompt: str  # the filled judge template
    response: str  # justification and score, as the judge wrote them
    score: float
    prompt_index: int  # of the judged prompt
    response_index: int
    vote: int

    def row(self) -> dict[str, Any]:
        """A row that an `sft` stage reads; `from_row` is its inverse."""
        place = {"prompt_index": self.prompt_index, "response_index": self.response_index, "vote": self.vote}
        return {"prompt": self.prompt, "response": self.response, "vote_score": self.score, **place}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> JudgeExample:
        values = {**row, "score": row["vote_score"]}
        del values["vote_score"]
        return cls(**values)


@dataclass(frozen=True)
class JudgeData:
    """What was made: examples to train on, prompts to measure the judge on, and what was dropped where."""

    examples: list[JudgeExample]
    held_out: list[JudgedPrompt]
    counts: JudgeDataCounts


def set_aside(judged: Sequence[JudgedPrompt], share: float) -> tuple[list[JudgedPrompt], list[JudgedPrompt]]:
    """Splits into (to judge, held out): about `share` of the different prompts is held out.

    A prompt is held out where the hash of its text is among the lowest `share` of all hashes. So its side is
    a function of its text alone, not of a seed, a stage, or what else is in the set: a prompt that one stage
    or run holds out is held out by every other with this share. Prompts that differ in case or blanks only
    count as equal. With a share over 0 and two prompts, at least one is held out and at least one is not,
    even where all hashes lie on one side.
    """
    places = {text: address("held out", text) / 2**63 for text in map(_key, (e.prompt for e in judged))}
    border = share
    if share > 0 and len(places) > 1:
        order = sorted(places.values())
        border = min(max(share, order[1]), order[-1])
    kept = [entry for entry in judged if places[_key(entry.prompt)] >= border]
    return kept, [entry for entry in judged if places[_key(entry.prompt)] < border]


def _key(prompt: str) -> str:
    return " ".join(prompt.split()).casefold()


def without_prompts(
    judged: Sequence[JudgedPrompt], prompts: Iterable[str], counts: JudgeDataCounts
) -> list[JudgedPrompt]:
    """Those whose prompts are none of `prompts` (compared as in `set_aside`); the others are counted."""
    known = {_key(prompt) for prompt in prompts}
    kept = [entry for entry in judged if _key(entry.prompt) not in known]
    if len(judged) > len(kept):
        counts.dropped[IN_OTHER_DATA] += len(judged) - len(kept)
    return kept


def usable_prompts(
    judged: Sequence[JudgedPrompt], agree: Agreement, counts: JudgeDataCounts
) -> list[JudgedPrompt]:
    """Those whose judgments can be compared with people's; the others are counted and never judged."""
    keeps = has_order if agree == "order" else _is_rated
    usable = [entry for entry in judged if keeps(entry)]
    if len(judged) > len(usable):
        counts.dropped[NO_ORDER if agree == "order" else NO_RATING] += len(judged) - len(usable)
    return usable


def _is_rated(judged: JudgedPrompt) -> bool:
    return judged.is_rated


class JudgeDataMaker:
    """Turns judgments into examples, one prompt at a time, and counts what it drops.

    template, codec: the judge's. max_tokens: the context an example must fit; None: any length.
    """

    def __init__(
        self,
        template: JudgeTemplate,
        codec: Codec,
        *,
        agree: Agreement,
        votes_per_response: int,
        max_tokens: int | None,
        counts: JudgeDataCounts,
    ) -> None:
        self._template = template
        self._codec = codec
        self._agree = agree
        self._votes_per_response = votes_per_response
        self._max_tokens = max_tokens
        self.counts = counts

    def examples(self, judged: JudgedPrompt, judgments: Sequence[Judgment]) -> list[JudgeExample]:
        """The votes on a prompt's responses that may be trained on; one judgment for each response, in
        order."""
        self.counts.judged += 1
        means = [judgment.score for judgment in judgments]
        return [
            example
            for place, judgment in enumerate(judgments)
            for example in self._of_response(judged, place, judgment, means)
        ]

    def _of_response(
        self, judged: JudgedPrompt, place: int, judgment: Judgment, means: Sequence[float | None]
    ) -> Iterator[JudgeExample]:
        self.counts.responses += 1
        votes = [vote for vote in judgment.votes if vote.status in ("parsed", "unparsed")]
        if not votes:
            self.counts.dropped[OVER_CONTEXT] += 1
        shown = self._template.render(judged.prompt, judged.responses[place]).text
        num_kept = 0
        for vote in votes:
            self.counts.votes += 1
            self.counts.votes_parsed += vote.score is not None
            reason = self._fault(judged, place, vote, means, shown)
            if not reason and num_kept == self._votes_per_response:
                reason = FURTHER
            if reason:
                self.counts.dropped[reason] += 1
                continue
            num_kept += 1
            assert vote.score is not None
            yield JudgeExample(shown, vote.text.rstrip(), vote.score, judged.index, place, vote.index)

    def _fault(
        self, judged: JudgedPrompt, place: int, vote: Vote, means: Sequence[float | None], shown: str
    ) -> str:
        """Why a vote is no example; empty where it is one."""
        if vote.score is None:
            return UNPARSED
        if not vote.text.strip():
            return NO_TEXT  # only a function of the user's own scores nothing at all
        if vote.finish_reason == "length":
            return CUT_OFF  # trained on, it would teach to end in the middle
        agreed: bool | None
        if self._agree == "exact":
            agreed = agrees_exactly(vote.score, judged.worths[place])
        else:
            agreed = agrees_in_order(vote.score, place, judged.worths, means)
        if agreed is None:
            return NOTHING_TO_COMPARE
        if not agreed:
            return DISAGREEING
        return "" if self._fits(shown, vote.text.rstrip()) else TOO_LONG_TO_TRAIN

    def _fits(self, prompt: str, response: str) -> bool:
        if self._max_tokens is None:
            return True
        length = len(self._codec.prompt_ids(prompt)) + len(self._codec.response_ids(prompt, response))
        return length <= self._max_tokens


def thinned(
    examples: Sequence[JudgeExample],
    max_share: float,
    *,
    seed: Sequence[int | str],
    counts: JudgeDataCounts,
) -> list[JudgeExample]:
    """Examples in their order, without those of scores that are too common (`kept_of_each`).

    Which ones go is decided by address, so by nothing but the seed and where an example came from.
    """
    of_score: dict[int, list[JudgeExample]] = {}
    for example in examples:
        of_score.setdefault(nearest(example.score), []).append(example)
    kept_counts = kept_of_each(Counter({score: len(own) for score, own in of_score.items()}), max_share)
    kept: set[JudgeExample] = set()
    for score, own in of_score.items():
        own.sort(key=lambda e: address(*seed, "thin", e.prompt_index, e.response_index, e.vote))
        kept |= set(own[: kept_counts[score]])
    if len(examples) > len(kept):
        counts.dropped[THINNED] += len(examples) - len(kept)
    counts.examples = len(kept)
    counts.scores = Counter(kept_counts)
    return [example for example in examples if example in kept]

"""Comparisons: the judge is shown two responses to a prompt, and the label of the better one is read.

The annotator of Online AI Feedback (OAIF, arXiv 2402.04792): no score is asked for, both orders are, and
averaged, because judges lean to a place. N candidates take N (N - 1) forwards; nothing is sampled.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import permutations

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.generation.choices import Tokens
from self_rewarding_lm_pytorch.judges.base import OnProgress, judgment_of
from self_rewarding_lm_pytorch.judges.reading import AnswerReader, Reading
from self_rewarding_lm_pytorch.judges.slot import Slot, split
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt, Vote
from self_rewarding_lm_pytorch.text import Codec

LABELS = ("A", "B")
"""What the built-in template asks for: the first response's label and the second's."""

Shown = Sequence[tuple[Prompt, Candidate]]
Order = tuple[int, int]  # places in what is shown, of the response shown first and of the second


class PairwiseJudge:
    """A candidate's score: the mean probability, 0 to 1, that it is preferred to another of its visit.

    Every two candidates of a visit are compared in both orders, and each order gives both a vote:
    `probabilities` are those of the two labels, as read, `score` that of the candidate's own label, `text`
    the place it was shown in and what it was compared with. Equal responses need no rule of their own:
    both orders are one prompt, so they get 0.5 and what the judge's leaning to a place is stays visible.

    template: one that shows `template.PAIRWISE`.
    labels: what the judge answers where the first response is better, and the second.
    num_candidates: of each visit; it says how many votes there will be.
    context: the judge model's, in tokens. A comparison of which an order leaves no room for a label in it
        is not cut but left out in both: one order alone would bring its bias. Its votes have no score, but
        the reason. None: no limit.
    batch_size: judge prompts read between two reports of progress.
    Raises ConfigError for labels that the tokenizer cannot tell apart.
    """

    def __init__(
        self,
        policy: Policy,
        codec: Codec,
        template: JudgeTemplate,
        *,
        labels: tuple[str, str] = LABELS,
        num_candidates: int = 2,
        context: int | None,
        use_cache: bool = True,
        batch_size: int = 128,
    ) -> None:
        self.num_votes = 2 * (num_candidates - 1)
        self._template = template
        self._reader = AnswerReader(
            policy,
            codec,
            lambda tokenize: _label_slot(labels, tokenize),
            context=context,
            use_cache=use_cache,
            batch_size=batch_size,
        )

    def judge(self, shown: Shown, *, on_progress: OnProgress | None = None) -> list[Judgment]:
        """One judgment for each candidate, in order; a candidate that is alone in its visit has no score.

        Raises JudgeError where the labels' probabilities are not numbers.
        """
        visits: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, (_, candidate) in enumerate(shown):
            visits[candidate.prompt_index, candidate.visit].append(place)
        orders = [order for places in visits.values() for order in permutations(places, 2)]
        texts = [self._text(shown, order) for order in orders]
        found = self._reader.read(texts, on_progress=on_progress, votes=2)
        readings = {
            order: _checked(shown, order, reading) for order, reading in zip(orders, found, strict=True)
        }
        return [
            _judgment(shown, readings, place, visits[candidate.prompt_index, candidate.visit])
            for place, (_, candidate) in enumerate(shown)
        ]

    def slot_behind(self, judge_prompt: str) -> Slot:
        """The slot of a label with which the judge's answer to this prompt begins."""
        return self._reader.slot_behind(judge_prompt)

    def _text(self, shown: Shown, order: Order) -> str:
        (prompt, first), (_, second) = (shown[place] for place in order)
        return self._template.render(prompt.text, first.text, second.text).text


def _label_slot(labels: tuple[str, str], tokenize: Callable[[str], Tokens]) -> Slot:
    whole = [tokenize(label) for label in labels]
    if not all(whole) or whole[0] == whole[1]:
        raise ConfigError(
            f"mode='pairwise' needs to tell the labels {labels[0]!r} and {labels[1]!r} apart, but the "
            "tokenizer writes them with the same tokens, or one with none, so no preference could be read; "
            "give two different labels that it can write"
        )
    return Slot(*split(whole))


def _checked(shown: Shown, order: Order, reading: Reading) -> Reading:
    if not all(map(math.isfinite, reading.probabilities)):
        first, second = (shown[place][1] for place in order)
        raise JudgeError(
            f"the labels of answer {first.index}, shown first, and answer {second.index} to prompt "
            f"{first.prompt_index} (visit {first.visit}) have the probabilities "
            f"{list(reading.probabilities)}, so neither is preferred; the judge model's logits are not "
            "numbers, or exclude both labels: look at its weights"
        )
    return reading


def _judgment(shown: Shown, readings: dict[Order, Reading], own: int, visit: Sequence[int]) -> Judgment:
    votes: list[Vote] = []
    for other in visit:
        if other != own:
            both = readings[own, other], readings[other, own]
            index = shown[other][1].index
            votes += _votes(len(votes), f"against candidate_index {index}", both)
    reason = votes[0].reason if votes else "its visit has no other candidate to compare it with"
    return judgment_of(shown[own][1], votes, reason)


def _votes(number: int, against: str, both: tuple[Reading, Reading]) -> list[Vote]:
    """A candidate's two votes of one comparison: shown first, then second."""
    texts = f"shown first, {against}", f"shown second, {against}"
    reason = both[0].reason or both[1].reason
    if reason:
        return [Vote(number + place, text, None, "unparsed", reason) for place, text in enumerate(texts)]
    return [
        Vote(
            number + place,
            text,
            reading.probabilities[place],
            "expected",
            probabilities=reading.probabilities,
        )
        for place, (text, reading) in enumerate(zip(texts, both, strict=True))
    ]

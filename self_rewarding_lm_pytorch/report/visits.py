"""Visits to prompts as the list shows them: their candidates and votes, what became of each and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair
from self_rewarding_lm_pytorch.report.fates import UNDECIDED, Rule, fates, visit_words
from self_rewarding_lm_pytorch.report.run_files import Stage


@dataclass
class Card:
    """A candidate, or a given response."""

    text: str
    role: int  # 1 chosen, 2 rejected, 0 neither; +4 where it was cut off at its token limit
    num_tokens: int | None
    fate: str
    writer: str = ""  # the model that wrote it, where several wrote this visit's
    judgment: Judgment | None = None


@dataclass
class Visit:
    """A row of the list: a prompt, its candidates, and what became of them."""

    stage: int
    place: tuple[int, int]  # prompt index, visit
    prompt: str
    outcome: str  # "pair", a reason, or UNDECIDED
    why: str
    cards: list[Card]


def visits_of(number: int, stage: Stage) -> Iterator[Visit]:
    """A stage's visits in the order of its prompts."""
    rule = Rule.of(stage.plan)
    pairs = {(pair.prompt_index, pair.visit): pair for pair in stage.pairs}
    skipped = {(row["prompt_index"], row["visit"]): row for row in stage.skipped}
    judged: dict[tuple[int, int], dict[int, Judgment]] = {}
    for j in stage.judgments:
        judged.setdefault((j.prompt_index, j.visit), {})[j.candidate_index] = j
    asked = dict(stage.prompts) | {
        index: str(row["prompt"]) for (index, _), row in skipped.items() if row.get("prompt")
    }
    asked |= {pair.prompt_index: pair.prompt for pair in stage.pairs}
    sampled: dict[tuple[int, int], list[Candidate]] = {place: [] for place in [*pairs, *skipped]}
    for candidate in stage.candidates:
        sampled.setdefault((candidate.prompt_index, candidate.visit), []).append(candidate)
    for place, candidates in sorted(sampled.items()):
        pair, known = pairs.get(place), judged.get(place, {})
        outcome = "pair" if pair else str(skipped.get(place, {}).get("reason", UNDECIDED))
        cards = [*_given(pair, rule), *_sampled(pair, rule, candidates, known)]
        num_votes = max((len(j.votes) for j in known.values()), default=0)
        why = visit_words(rule, pair, outcome, len(candidates), num_votes)
        yield Visit(number, place, asked.get(place[0], ""), outcome, why, cards)


def _given(pair: PreferencePair | None, rule: Rule) -> Iterator[Card]:
    """A pair's responses that are no candidates."""
    if pair is None:
        return
    if pair.chosen_index < 0:
        fate = "the data set's answer" if rule.kind == "spin" else "given as chosen"
        yield Card(pair.chosen, 1, len(pair.chosen_ids), fate)
    if pair.rejected_index < 0:
        fate = "the opponent's answer" if rule.kind == "spin" else "given as rejected"
        yield Card(pair.rejected, 2, len(pair.rejected_ids), fate)


def _sampled(
    pair: PreferencePair | None, rule: Rule, candidates: Sequence[Candidate], judged: dict[int, Judgment]
) -> Iterator[Card]:
    roles = {pair.chosen_index: 1, pair.rejected_index: 2} if pair else {}
    candidates = sorted(candidates, key=lambda each: each.index)
    is_mixed = len({each.policy for each in candidates}) > 1
    for c, fate in zip(candidates, fates(rule, pair, candidates, judged), strict=True):
        role = roles.get(c.index, 0) + 4 * (c.finish_reason == "length")
        yield Card(c.text, role, len(c.ids), fate, c.policy if is_mixed else "", judged.get(c.index))

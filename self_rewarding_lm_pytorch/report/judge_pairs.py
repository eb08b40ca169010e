"""Judge pairs as rows of the list: a response's judgments, what the meta-judge made of them, and the two
that were picked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from self_rewarding_lm_pytorch.records import Judgment, PreferencePair, Vote
from self_rewarding_lm_pytorch.report.run_files import Stage
from self_rewarding_lm_pytorch.report.visits import Card, Visit
from self_rewarding_lm_pytorch.report.words import percent

_WHY = (
    "The judge agreed with itself least on this response, so its judgments were compared with each other: "
    "the one rated highest against the lowest of {num}, in Elo points."
)
_PICKED = {1: "chosen: rated highest", 2: "rejected: rated lowest", 0: "not picked"}


def judge_pair_rows(number: int, stage: Stage) -> Iterator[Visit]:
    """A stage's judge pairs in the order of their prompts; `prompt` is all that the judge was shown."""
    compared: dict[tuple[int, int], dict[int, Judgment]] = defaultdict(dict)
    for each in stage.comparisons:  # there a judgment stands in a candidate's place
        compared[each.prompt_index, each.visit][each.candidate_index] = each
    judged: dict[tuple[int, int], list[Judgment]] = defaultdict(list)
    for each in stage.judgments:
        judged[each.prompt_index, each.visit].append(each)
    for pair in sorted(stage.judge_pairs, key=lambda each: (each.prompt_index, each.visit)):
        place = pair.prompt_index, pair.visit
        cards = _cards(pair, _votes(pair, judged[place]), compared[place])
        yield Visit(number, place, pair.prompt, "pair", _WHY.format(num=len(cards)), cards)


def _votes(pair: PreferencePair, judged: list[Judgment]) -> Mapping[int, Vote]:
    """By their numbers, those of the response that the pair judges."""
    for judgment in judged:
        votes = {vote.index: vote for vote in judgment.votes if vote.status == "parsed"}
        if all(
            index in votes and votes[index].text == text
            for index, text in ((pair.chosen_index, pair.chosen), (pair.rejected_index, pair.rejected))
        ):
            return votes
    return {}


def _cards(pair: PreferencePair, votes: Mapping[int, Vote], compared: Mapping[int, Judgment]) -> list[Card]:
    picked = {
        pair.chosen_index: (1, pair.chosen, pair.chosen_ids, pair.chosen_score),
        pair.rejected_index: (2, pair.rejected, pair.rejected_ids, pair.rejected_score),
    }
    cards = []
    for index in sorted({*picked, *(compared.keys() & votes.keys())}):
        role, text, ids, elo = picked.get(index, (0, "", None, None))
        judgment = None if elo is None else Judgment(pair.prompt_index, pair.visit, index, elo)
        num_tokens = None if ids is None else len(ids)
        fate = _PICKED[role] + _told(votes.get(index), compared.get(index))
        cards.append(Card(text or votes[index].text, role, num_tokens, fate, judgment=judgment))
    return cards


def _told(vote: Vote | None, comparison: Judgment | None) -> str:
    """What it gives, and how often it was preferred."""
    words = "" if vote is None or vote.score is None else f"; it gives {vote.score:g}"
    if comparison is not None and comparison.score is not None:
        num = sum(each.score is not None for each in comparison.votes)
        words += f"; preferred in {percent(comparison.score)} of its {num} comparisons"
    return words

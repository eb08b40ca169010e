"""Judge pairs: of one response's judgments, the one a meta-judge rates highest against the lowest.

Meta-Rewarding Language Models (arXiv 2407.19594, section 2): of each prompt the response on which the judge
agrees with itself least is taken; its judgments meet each other in both orders, wins are weighed against the
meta-judge's leaning to a place, and Elo ratings are fitted by maximum likelihood.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import pvariance

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.judges.meta import Comparison
from self_rewarding_lm_pytorch.preferences.bradley_terry import ELO, ratings
from self_rewarding_lm_pytorch.records import Judgment, Vote

TIE = 1e-6
"""Elo points; ratings nearer to each other than that are equal."""


@dataclass(frozen=True, slots=True)
class JudgePairRule:
    """What of a stage's judgments becomes a judge pair."""

    max_judgments: int  # of one response compared
    max_share: float  # of the pairs, whose chosen judgments give the same points
    max_tokens: int | None  # a longer judgment is not chosen
    num_pairs: int | None  # no more pairs than that


@dataclass(frozen=True, slots=True)
class Disputed:
    """A response on which the judge disagrees with itself, and the different judgments of it."""

    judgment: Judgment
    votes: tuple[Vote, ...]  # at least two; no two have the same text


@dataclass(frozen=True, slots=True)
class PlaceWeights:
    """What a win counts for, by the place it was won in. The two add up to 1."""

    first: float
    second: float


def most_disputed(judgments: Sequence[Judgment], max_judgments: int) -> Disputed | None:
    """Of the candidates of one visit, the one whose scores vary most (variance); ties to the first.

    Only sampled judgments count that came to a score and to their end. Equal ones are merged, and the first
    `max_judgments` different ones are kept. None where no candidate has two different scores.
    """
    best, spread = None, 0.0
    for judgment in judgments:
        votes = _whole(judgment)
        variance = pvariance([float(vote.score or 0.0) for vote in votes]) if len(votes) > 1 else 0.0
        if variance > spread:
            best, spread = Disputed(judgment, _different(votes)[:max_judgments]), variance
    return best if best is not None and len(best.votes) > 1 else None


def _whole(judgment: Judgment) -> list[Vote]:
    return [
        vote
        for vote in judgment.votes
        if vote.status == "parsed" and vote.score is not None and vote.text and vote.finish_reason != "length"
    ]


def _different(votes: Iterable[Vote]) -> tuple[Vote, ...]:
    by_text: dict[str, Vote] = {}
    for vote in votes:
        by_text.setdefault(vote.text, vote)
    return tuple(by_text.values())


def place_weights(comparisons: Iterable[Comparison]) -> PlaceWeights:
    """Wins in the first place count by the share of wins in the second, and the other way round.

    Over all comparisons of a stage, so that a meta-judge's leaning to a place is weighed down; parts of a win
    count as such. Halves where nothing was read.
    """
    wins, count = 0.0, 0
    for comparison in comparisons:
        if comparison.first_wins is not None:
            wins, count = wins + comparison.first_wins, count + 1
    share = wins / count if count else 0.5
    return PlaceWeights(first=1 - share, second=share)


def battles(comparisons: Iterable[Comparison], players: Sequence[int], weights: PlaceWeights) -> Tensor:
    """B, float64 (N, N): B_ij = w1 [i wins, shown before j] + w2 [i wins, shown after j].

    players: the judgments' numbers, in the order of rows. Comparisons that were not read add nothing.
    """
    row = {player: number for number, player in enumerate(players)}
    wins = torch.zeros(len(players), len(players), dtype=torch.float64)
    for each in comparisons:
        if each.first_wins is not None:
            first, second = row[each.first], row[each.second]
            wins[first, second] += weights.first * each.first_wins
            wins[second, first] += weights.second * (1 - each.first_wins)
    return wins


@dataclass(frozen=True, slots=True)
class Best:
    """The highest and the lowest rated of a response's judgments, and their Elo ratings (mean-free scale)."""

    chosen: Vote
    rejected: Vote
    chosen_elo: float
    rejected_elo: float


def best_and_worst_judgment(
    votes: Sequence[Vote], comparisons: Sequence[Comparison], weights: PlaceWeights
) -> Best | None:
    """By Elo; the first among equals. None where all are rated the same."""
    elo = ratings(battles(comparisons, [vote.index for vote in votes], weights)) * ELO
    high, low = int(elo.argmax()), int(elo.argmin())
    if float(elo[high] - elo[low]) <= TIE:
        return None
    return Best(votes[high], votes[low], float(elo[high]), float(elo[low]))


def thinned(classes: Sequence[int], max_share: float, limit: int | None = None) -> list[int]:
    """Which pairs to keep, so that none of their classes makes up more than `max_share` of those kept.

    classes: of each pair, the whole points that its chosen judgment gives. A judge that is rewarded for one
    score most of the time learns to give it. Of a class that is too large the first are kept; as few are
    dropped as that takes. Where there are too few classes for the share, one pair of each is kept.
    limit: no more pairs than that in all. Returns places in `classes`, ascending.
    """
    sizes = Counter(classes)
    most = max(sizes.values(), default=0)
    for cap in range(most, 1, -1):
        kept = sum(min(size, cap) for size in sizes.values())
        kept = kept if limit is None else min(kept, limit)
        if cap <= max_share * kept:
            break
    else:
        cap = 1
    taken: dict[int, int] = defaultdict(int)
    places = []
    for place, own in enumerate(classes):
        if taken[own] < cap:
            taken[own] += 1
            places.append(place)
    return places[:limit]

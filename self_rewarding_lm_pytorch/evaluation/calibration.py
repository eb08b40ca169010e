"""Whether a judge's points and probabilities mean what they say, and how its votes and scores spread."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev

import numpy as np

from self_rewarding_lm_pytorch.evaluation.bootstrap import Array, Estimate, divided, ratio
from self_rewarding_lm_pytorch.evaluation.comparisons import Comparison
from self_rewarding_lm_pytorch.judges.points import floor, nearest
from self_rewarding_lm_pytorch.records import JudgedPrompt, Judgment

Bin = dict[str, float | int]
_NUM_BINS = 10  # where a scale has no whole points


@dataclass(frozen=True, slots=True)
class Scale:
    """A judge's points. A scale of whole points has a bin for each, another one ten equal bins."""

    low: float
    high: float
    is_whole: bool

    @property
    def num_bins(self) -> int:
        return round(self.high - self.low) + 1 if self.is_whole else _NUM_BINS

    def bin(self, score: float) -> int:
        """0 .. num_bins - 1, halves up; a score beyond an end falls into the last bin there."""
        if self.is_whole:
            place = nearest(score) - nearest(self.low)
        else:
            place = floor((score - self.low) / ((self.high - self.low) or 1.0) * _NUM_BINS)
        return min(max(place, 0), self.num_bins - 1)

    def label(self, place: int) -> float:
        """The whole point of a bin, or its lower end."""
        width = 1.0 if self.is_whole else (self.high - self.low) / _NUM_BINS
        return round(self.low + place * width, 6)


def histogram(scores: Sequence[float], scale: Scale) -> list[Bin]:
    """How often the scores fall into each bin: {score, num}."""
    counts = Counter(map(scale.bin, scores))
    return [{"score": scale.label(place), "num": counts[place]} for place in range(scale.num_bins)]


def entropies(scores: Sequence[Sequence[float]], scale: Scale) -> dict[str, Estimate]:
    """Entropy of the scores over the bins, in nats and as a share of the most that it can be.

    scores: by prompt. A judge that says the same of everything has 0.
    """
    counts = np.zeros((len(scores), scale.num_bins))
    for place, own in enumerate(scores):
        for score in own:
            counts[place, scale.bin(score)] += 1

    def nats(weights: Array) -> Array:
        drawn: Array = weights @ counts
        shares = divided(drawn, np.broadcast_to(drawn.sum(axis=1, keepdims=True), drawn.shape))
        logs = np.log(np.where(shares > 0, shares, 1.0))
        found: Array = np.abs((shares * logs).sum(axis=1))
        return found

    most = math.log(scale.num_bins) if scale.num_bins > 1 else math.nan
    num, prompts = int(counts.sum()), int((counts.sum(axis=1) > 0).sum())
    return {
        "score_entropy": Estimate(nats, num, prompts),
        "score_entropy_share": Estimate(lambda weights: nats(weights) / most, num, prompts),
    }


def vote_figures(judgments: Sequence[Sequence[Judgment]], *, repeated: bool) -> dict[str, Estimate]:
    """parse_rate: the share of the judge's own votes that have a score; forced votes are not its own.

    repeated: the votes of a response answer one question (not so in comparisons). Then vote_agreement is the
    share of two votes of a response that are equal, and vote_sd the mean, over responses with two votes or
    more, of the standard deviation (n - 1) of their scores, in points.
    """
    own = [[v for j in prompt for v in j.votes if v.status != "forced"] for prompt in judgments]
    figures = {
        "parse_rate": ratio([sum(v.score is not None for v in votes) for votes in own], [len(v) for v in own])
    }
    if not repeated:
        return figures
    scores = [[[v.score for v in j.votes if v.score is not None] for j in prompt] for prompt in judgments]
    several = [[votes for votes in prompt if len(votes) > 1] for prompt in scores]
    pairs = [[one == two for votes in prompt for one, two in combinations(votes, 2)] for prompt in several]
    figures["vote_agreement"] = ratio([sum(equal) for equal in pairs], [len(equal) for equal in pairs])
    figures["vote_sd"] = ratio([sum(map(stdev, prompt)) for prompt in several], [len(p) for p in several])
    return figures


def rating_errors(
    scores: Sequence[Sequence[float | None]], judged: Sequence[JudgedPrompt], scale: Scale
) -> tuple[dict[str, Estimate], list[Bin]]:
    """bias, mae and ece of rated prompts, in points, and the reliability table.

    bias: mean of score less rating; mae: of its absolute value. ece: over bins of the score, the absolute
    difference of mean score and mean rating, each bin weighted by its share (expected calibration error, Guo
    et al. 2017, for ratings instead of probabilities). Chance alone makes it larger
    than 0, and resampling adds to it, so its interval leans upwards.
    """
    both = [
        [(s, w) for s, w in zip(own, prompt.worths, strict=True) if s is not None] if prompt.is_rated else []
        for own, prompt in zip(scores, judged, strict=True)
    ]
    nums = [len(own) for own in both]
    figures = {
        "bias": ratio([sum(s - w for s, w in own) for own in both], nums),
        "mae": ratio([sum(abs(s - w) for s, w in own) for own in both], nums),
        "ece": _binned_gap(both, scale.bin, scale.num_bins),
    }
    bins: dict[int, list[tuple[float, float]]] = {}
    for own in both:
        for score, worth in own:
            bins.setdefault(scale.bin(score), []).append((score, worth))
    table: list[Bin] = [
        {
            "score": scale.label(place),
            "num": len(own),
            "mean_score": fmean(s for s, _ in own),
            "mean_rating": fmean(w for _, w in own),
        }
        for place, own in sorted(bins.items())
    ]
    return figures, table


def probability_errors(compared: Sequence[Sequence[Comparison]]) -> dict[str, Estimate]:
    """brier and ece_probability of comparisons whose worths differ, by prompt.

    brier: the mean squared difference of the probability, over both orders, that the first is preferred and
    the outcome; 0.25 is what always saying one half gives. ece_probability: over five bins of the probability
    of the preferred one (0.5 to 1), the absolute difference of its mean and of the share that people prefer
    too.
    """
    told = [
        [(c.probability, c.outcome) for c in own if c.probability is not None and c.outcome is not None]
        for own in compared
    ]
    confident = [[(max(p, 1 - p), float((p > 0.5) == (y > 0.5))) for p, y in own if p != 0.5] for own in told]
    return {
        "brier": ratio([sum((p - y) ** 2 for p, y in own) for own in told], [len(own) for own in told]),
        "ece_probability": _binned_gap(confident, lambda p: min(floor((p - 0.5) * 10), 4), 5),
    }


def _binned_gap(
    both: Sequence[Sequence[tuple[float, float]]], bin_of: Callable[[float], int], num_bins: int
) -> Estimate:
    """Over bins of the first: |mean of the first - mean of the second|, weighted by the bin's share."""
    gaps, nums = np.zeros((len(both), num_bins)), np.zeros(len(both))
    for place, own in enumerate(both):
        nums[place] = len(own)
        for first, second in own:
            gaps[place, bin_of(first)] += first - second

    def statistic(weights: Array) -> Array:
        return divided(np.abs(weights @ gaps).sum(axis=1), weights @ nums)

    return Estimate(statistic, int(nums.sum()), int((nums > 0).sum()))

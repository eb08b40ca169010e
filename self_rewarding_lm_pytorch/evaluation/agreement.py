"""How far a judge's scores agree with people's on prompts whose responses people have judged.

The measures of Self-Rewarding Language Models (arXiv 2401.10020, section 4.1.2: pairwise accuracy, 5-best,
exact match, Spearman, Kendall), and agreement with and without ties, which Meta-Rewarding (arXiv 2407.19594)
reports. No text that we could read says how a judge's ties are counted, or whether correlations are means
over prompts, so these are our choices:

- a pair counts where its worths differ and both responses have a score; without ties, pairs that the judge
  ties are left out; with ties, they count as wrong;
- a correlation is the mean over the prompts on which it is defined (a judge that gives all responses of a
  prompt one score orders nothing there, and the prompt takes no part); where worths are ratings there is also
  that of all responses at once;
- the best share asks only prompts whose worths differ: elsewhere every response is the best;
- a score is exactly the rating where both are the same whole number, halves rounded up, which is also what
  `prepare judge-data` calls exact.

A response without a score takes part in nothing but the count of those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from self_rewarding_lm_pytorch.evaluation.bootstrap import Estimate, mean, ratio
from self_rewarding_lm_pytorch.evaluation.ranks import correlation_of, pooled
from self_rewarding_lm_pytorch.judges.points import at_least, order, same_point
from self_rewarding_lm_pytorch.records import JudgedPrompt

Scores = Sequence[Sequence[float | None]]
"""Of each response of each prompt; None: the judge gave none."""


def agreement(
    scores: Scores, judged: Sequence[JudgedPrompt], *, top_score: float | None = None
) -> dict[str, Estimate]:
    """Every measure by its name.

    scores: as many as `judged` has prompts, and as each has responses (ValueError otherwise).
    top_score: of the judge's scale, given to what it finds perfect; None: a prompt's highest score is.
    """
    if [len(own) for own in scores] != [len(prompt.responses) for prompt in judged]:
        raise ValueError("there must be one score, or None, for each response of each judged prompt")
    both = [_scored(own, prompt.worths) for own, prompt in zip(scores, judged, strict=True)]
    counts = [_pairs(own) for own in both]
    best = [_best(own, prompt, top_score) for own, prompt in zip(both, judged, strict=True)]
    exact = [_same_order(own, prompt) for own, prompt in zip(both, judged, strict=True)]
    found = {
        "pairwise_accuracy": ratio(
            [right for right, _, _ in counts], [right + wrong for right, wrong, _ in counts]
        ),
        "pairwise_accuracy_with_ties": ratio([right for right, _, _ in counts], [sum(own) for own in counts]),
        "tie_share": ratio([tied for _, _, tied in counts], [sum(own) for own in counts]),
        "best_share": ratio([right for right, _ in best], [given for _, given in best]),
        "exact_match": mean(exact),
        "spearman": mean([_correlation(own, tau=False) for own in both]),
        "kendall": mean([_correlation(own, tau=True) for own in both]),
        "scored_share": ratio([len(own) for own in both], [len(own) for own in scores]),
    }
    return {**found, **_of_ratings(both, judged)}


Both = list[tuple[float, float]]  # a prompt's scores with the people's worths


def _scored(scores: Sequence[float | None], worths: Sequence[float]) -> Both:
    return [(score, worth) for score, worth in zip(scores, worths, strict=True) if score is not None]


def _pairs(both: Both) -> tuple[int, int, int]:
    """Pairs of different worth that the judge has in the right order, in the wrong one, and tied."""
    right = wrong = tied = 0
    for (score, worth), (other_score, other_worth) in combinations(both, 2):
        sign = order(score, other_score) * np.sign(worth - other_worth)
        if worth != other_worth:
            right, wrong, tied = right + (sign > 0), wrong + (sign < 0), tied + (sign == 0)
    return int(right), int(wrong), int(tied)


def _best(both: Both, prompt: JudgedPrompt, top_score: float | None) -> tuple[int, int]:
    """Responses with the top score that are the people's best, and all with the top score."""
    if len(set(prompt.worths)) < 2 or not both:
        return 0, 0
    top = max(score for score, _ in both) if top_score is None else top_score
    given = [worth for score, worth in both if at_least(score, top)]
    return sum(worth == max(prompt.worths) for worth in given), len(given)


def _same_order(both: Both, prompt: JudgedPrompt) -> float | None:
    """Whether every two responses stand as people have them, ties included; None where it cannot be told."""
    if len(set(prompt.worths)) < 2 or len(both) < len(prompt.worths):
        return None
    pairs = combinations(both, 2)
    return float(all(order(one[0], two[0]) == np.sign(one[1] - two[1]) for one, two in pairs))


def _correlation(both: Both, *, tau: bool) -> float | None:
    scores, worths = [score for score, _ in both], [worth for _, worth in both]
    found = correlation_of(scores, worths, tau=tau)
    return None if math.isnan(found) else found


def _of_ratings(both: Sequence[Both], judged: Sequence[JudgedPrompt]) -> dict[str, Estimate]:
    """What needs worths on one scale; where there are none it is over nothing."""
    rated = [own if prompt.is_rated else [] for own, prompt in zip(both, judged, strict=True)]
    flat = [(score, worth, place) for place, own in enumerate(rated) for score, worth in own]
    scores, worths, prompts = (list(column) for column in zip(*flat, strict=True)) if flat else ([], [], [])
    agreed = [sum(same_point(score, worth) for score, worth in own) for own in rated]
    return {
        "exact_score": ratio(agreed, [len(own) for own in rated]),
        "spearman_pooled": pooled(scores, worths, prompts, tau=False),
        "kendall_pooled": pooled(scores, worths, prompts, tau=True),
    }

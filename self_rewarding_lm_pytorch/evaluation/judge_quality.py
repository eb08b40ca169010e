"""How well a judge's scores agree with people's on a judged set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from self_rewarding_lm_pytorch.judges.points import same_point


@dataclass(frozen=True)
class JudgeQuality:
    """Agreement on the items the judge scored; NaN where it cannot be told."""

    spearman: float  # rank correlation, -1 to 1
    exact: float  # share of scores that, halves rounded up, equal the person's
    scored: float  # share of items that got a score


def judge_quality(scores: Sequence[float | None], labels: Sequence[float]) -> JudgeQuality:
    """scores: the judge's, None where it gave none; labels: people's, in the same order."""
    both = [(s, label) for s, label in zip(scores, labels, strict=True) if s is not None]
    if len(both) < 2:
        return JudgeQuality(math.nan, math.nan, len(both) / max(1, len(labels)))
    from scipy import stats  # takes most of a second to import

    own, given = zip(*both, strict=True)
    exact = sum(same_point(s, label) for s, label in both) / len(both)
    varied = len(set(own)) > 1 and len(set(given)) > 1
    spearman = float(stats.spearmanr(own, given).statistic) if varied else math.nan
    return JudgeQuality(spearman, exact, len(both) / len(labels))

"""How far two judges agree on the order of a visit's candidates.

CREAM (Wang et al., 2410.12735): where the model and the model before it rank the same candidates
differently, the label is believed less. There models rank by their likelihoods; here by their judgments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean


def agreement(scores: Sequence[float | None], others: Sequence[float | None]) -> float | None:
    """(tau + 1) / 2 of two judges' scores of the same candidates, in order: 1 one order, 0 the reverse.

    Kendall's tau-b over the candidates that both scored. None where that is not defined: fewer than two of
    them, or a judge to whom all are equal.
    """
    both = [(a, b) for a, b in zip(scores, others, strict=True) if a is not None and b is not None]
    if len(both) < 2:
        return None
    from scipy import stats  # takes most of a second to import

    tau = float(stats.kendalltau(*zip(*both, strict=True)).statistic)
    return None if math.isnan(tau) else (tau + 1) / 2


def certainties(agreements: Sequence[float | None], *, per_pair: bool) -> list[float]:
    """The certainty of each label: its own agreement, or all labels' mean; the mean too where it has none.

    Raises ValueError where no agreement is defined, since nothing is then known of the labels.
    """
    known = [value for value in agreements if value is not None]
    if not known:
        raise ValueError("no visit's candidates were ranked by both judges")
    mean = fmean(known)
    return [value if per_pair and value is not None else mean for value in agreements]

"""Rank correlations. Values are scipy's; our own, of weighted observations, are for the bootstrap's draws.

A weight says how often an observation counts; with every weight 1 ours equal scipy's. Undefined (all equal on
one side) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from self_rewarding_lm_pytorch.evaluation.bootstrap import Array, Estimate, divided

_MOST_NUMBERS = 4_000_000  # held at once
_MOST_CELLS = (
    1_000  # different observations: beyond these Kendall's tau, which sees all pairs, has no interval
)


def spearman(x: Array, y: Array, weights: Array | None = None) -> Array:
    """Spearman's rho, tied values sharing their mean rank.

    x, y: (N,); weights: (draws, N), whole numbers. Returns (draws,); one draw where no weights are given.
    """
    w = np.ones((1, len(x))) if weights is None else weights
    total = w.sum(axis=1, keepdims=True)
    first, second = (_weighted_ranks(values, w) for values in (x, y))
    a, b = (r - divided((w * r).sum(axis=1, keepdims=True), total) for r in (first, second))
    spread = (w * a * a).sum(axis=1) * (w * b * b).sum(axis=1)
    above: Array = (w * a * b).sum(axis=1)
    return divided(above, np.sqrt(np.where(spread > 1e-9, spread, 0.0)))


def kendall(x: Array, y: Array, weights: Array | None = None) -> Array:
    """Kendall's tau-b: concordant less discordant pairs, over the geometric mean of the pairs untied in each.

    Shapes as in `spearman`. An observation drawn twice is a pair tied in both.
    """
    w = np.ones((1, len(x))) if weights is None else weights
    first, second = (np.sign(values[:, None] - values[None, :]) for values in (x, y))
    agreeing = (w * (w @ (first * second))).sum(axis=1)
    untied = [(w * (w @ np.abs(signs))).sum(axis=1) for signs in (first, second)]
    return divided(agreeing, np.sqrt(untied[0] * untied[1]))


def mean_ranks(values: Array) -> Array:
    """Ranks from 1, tied values sharing their mean: (N,)."""
    ranks: Array = _weighted_ranks(values, np.ones((1, len(values))))[0]
    return ranks


def pooled(x: Sequence[float], y: Sequence[float], prompts: Sequence[int], *, tau: bool) -> Estimate:
    """The correlation over all observations at once; `prompts` says which prompt each belongs to.

    tau: Kendall's, otherwise Spearman's. Over very many different observations tau has no interval.
    """
    given = np.stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)], axis=1)
    cells, places = np.unique(given.reshape(-1, 2), axis=0, return_inverse=True)
    order = np.argsort(places.reshape(-1), kind="stable")  # observations by the cell they fall into
    owners = np.asarray(prompts, dtype=np.int64)[order]
    starts = np.searchsorted(places.reshape(-1)[order], np.arange(len(cells)))
    correlation = kendall if tau else spearman
    rows = max(1, _MOST_NUMBERS // max(1, len(given)))

    def statistic(weights: Array) -> Array:
        found = np.full(len(weights), np.nan)
        for start in range(0, len(weights) if len(cells) else 0, rows):
            drawn = weights[start : start + rows, owners]
            counts = np.add.reduceat(drawn, starts, axis=1)
            found[start : start + rows] = correlation(cells[:, 0], cells[:, 1], counts)
        return found

    is_drawn = not (tau and len(cells) > _MOST_CELLS)
    num_prompts = len(set(prompts)) if is_drawn else 1
    return Estimate(statistic, len(given), num_prompts, value=correlation_of(x, y, tau=tau))


def correlation_of(x: Sequence[float], y: Sequence[float], *, tau: bool) -> float:
    """Kendall's tau-b or Spearman's rho of two lists, by scipy; NaN where one of them is constant."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return float("nan")
    from scipy import stats  # takes most of a second to import

    return float(stats.kendalltau(x, y).statistic if tau else stats.spearmanr(x, y).statistic)


def _weighted_ranks(values: Array, weights: Array) -> Array:
    """Mean ranks from 1 where each value counts as often as its weight: (draws, N)."""
    levels, places = np.unique(values, return_inverse=True)
    order = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(len(levels)))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1) if len(values) else weights
    ranks: Array = (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, places]
    return ranks

"""Histograms side by side: the same bins and the same axes, so that they can be compared by eye."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from self_rewarding_lm_pytorch.report.svg import BOTTOM, HEIGHT, TOP, Frame, picture, tag, ticks
from self_rewarding_lm_pytorch.report.words import is_number, percent

MAX_BARS = 24  # more are a smear
MOST_GAPS = 60  # bars as wide as the smallest gap would be hair lines


@dataclass(frozen=True)
class Spread:
    """One of the histograms; `picture` is empty where none of its values is a number."""

    name: str
    picture: Markup
    num: int
    num_absent: int
    mean: float | None


@dataclass(frozen=True)
class Bins:
    """Where a value belongs: to the middle of its bar."""

    low: float
    high: float
    width: float
    is_exact: bool  # a bar is one value; otherwise a stretch of `width`

    @staticmethod
    def of(values: Sequence[float]) -> Bins:
        """A bar for each value where they are few and apart, else equal stretches; values: at least one."""
        different = sorted({round(value, 3) for value in values})
        low, high = different[0], different[-1]
        gap = min((b - a for a, b in pairwise(different)), default=1.0)
        if len(different) <= MAX_BARS and high - low <= MOST_GAPS * gap:
            return Bins(low, high, gap, True)
        return Bins(low, high, (high - low) / MAX_BARS, False)

    def middle(self, value: float) -> float:
        if self.is_exact:
            return round(value, 3)
        place = min(int((value - self.low) / self.width), MAX_BARS - 1)
        return self.low + (max(0, place) + 0.5) * self.width

    def shares(self, values: Sequence[float]) -> dict[float, float]:
        """middle -> share of the values."""
        counts = Counter(map(self.middle, values))
        return {middle: count / len(values) for middle, count in sorted(counts.items())}


def spreads(named: Mapping[str, Sequence[float | None]], x_label: str, what: str) -> list[Spread]:
    """A histogram for each name, all with the same axes. what: the values' things, as in `judgments`."""
    known = {
        name: [float(v) for v in values if is_number(v) and v is not None] for name, values in named.items()
    }
    every = [value for values in known.values() for value in values]
    if not every:
        return [Spread(name, Markup(""), len(values), len(values), None) for name, values in named.items()]
    bins = Bins.of(every)
    shares = {name: bins.shares(values) for name, values in known.items()}
    highest = max(share for each in shares.values() for share in each.values())
    return [
        Spread(
            name,
            histogram(known[name], shares[name], bins, highest, (x_label, f"share of {what}"))
            if known[name]
            else Markup(""),
            len(values),
            len(values) - len(known[name]),
            sum(known[name]) / len(known[name]) if known[name] else None,
        )
        for name, values in named.items()
    ]


def histogram(
    values: Sequence[float],
    shares: Mapping[float, float],
    bins: Bins,
    highest: float,
    labels: tuple[str, str],
) -> Markup:
    """How the values spread, the mean marked. labels: of both axes."""
    half = bins.width / 2
    frame = Frame(bins.low - half, bins.high + half, 0.0, highest)
    y_ticks = [(v, percent(v)) for v, _ in ticks(0.0, highest, 3)]
    x_ticks = ticks(bins.low, bins.high, 5) if bins.high > bins.low else [(bins.low, f"{bins.low:g}")]
    parts = frame.axes(x_ticks, y_ticks, *labels)
    for middle, share in shares.items():
        parts.append(frame.bar(middle - bins.width * 0.42, middle + bins.width * 0.42, share, "fill t0"))
    mean = sum(values) / len(values)
    x = frame.x(mean)
    parts.append(tag("line", x1=x, x2=x, y1=TOP - 6, y2=HEIGHT - BOTTOM, class_="mark"))
    told = f"{len(values):,} values from {min(values):g} to {max(values):g}, mean {mean:.2f}"
    return picture(f"{labels[0]}: {told}", parts)

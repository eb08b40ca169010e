"""Numbers as small inline SVG pictures: pure functions from numbers to `Markup`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from self_rewarding_lm_pytorch.report.svg import Frame, picture, tag, ticks
from self_rewarding_lm_pytorch.report.words import is_number, is_share, percent, short, show, title
from self_rewarding_lm_pytorch.training.metrics import training_of

Points = Sequence[tuple[float, float]]

MAX_POINTS = 160  # of a curve; more are narrower than a pixel
_ALL_POINTS = 12_000  # of all curves of a page, which keeps them below 150 KB


def lines(
    series: Mapping[str, Points], y_label: str, as_share: bool = False, max_points: int = MAX_POINTS
) -> Markup:
    """Curves over training steps, each with its last value written at its end."""
    thin = {name: _thinned(points, max_points) for name, points in series.items()}
    every = [point for points in thin.values() for point in points]
    x_values, y_values = [x for x, _ in every], [y for _, y in every]
    low, high = (0.0, 1.0) if as_share else (min(y_values), max(y_values))
    spare = 0.0 if as_share else (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    frame = Frame(min(x_values), max(x_values), low - spare, high + spare)
    y_ticks = [(v, percent(v) if as_share else t) for v, t in ticks(frame.y_low, frame.y_high)]
    x_ticks = [(x, f"{x:,.0f}") for x in sorted({frame.x_low, frame.x_high})]
    parts = frame.axes(x_ticks, y_ticks, "step", y_label)
    ends = _apart([frame.y(points[-1][1]) for points in thin.values()])
    for tone, (points, end) in enumerate(zip(thin.values(), ends, strict=True)):
        path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)
        parts.append(tag("polyline", points=path, class_=f"line t{tone}"))
        x, y = points[-1]
        parts.append(tag("circle", cx=frame.x(x), cy=frame.y(y), r=2.5, class_=f"fill t{tone}"))
        text = percent(y) if as_share else show("", float(y))
        parts.append(tag("text", text, x=frame.x(x) + 6, y=end + 3.5, class_=f"value t{tone}"))
    told = ", ".join(f"{n} ends at {show('', float(p[-1][1]))}" for n, p in series.items())
    return picture(f"{y_label}: {told}", parts)


def columns(name: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """One column for each model with its value on top."""
    values = [float(row[name]) for row in rows]
    natural = 5.0 if name == "true_score_mean" else 1.0 if is_share(name) or "spearman" in name else 0.0
    frame = Frame(-0.5, len(rows) - 0.5, min(0.0, *values), max(natural, *values, 1e-9))
    y_ticks = [(v, percent(v) if is_share(name) else t) for v, t in ticks(frame.y_low, frame.y_high, 5)]
    labels = [str(row.get("model", place + 1)) for place, row in enumerate(rows)]
    stride = -(-len(rows) // 6)  # names and values that would lie on each other are left out
    named = [(float(n), short(label)) for n, label in enumerate(labels) if n % stride == 0]
    parts = frame.axes(named, y_ticks, "model", "")
    for place, value in enumerate(values):
        parts.append(frame.bar(place - 0.28, place + 0.28, value, "fill t0"))
        if place % stride == 0:
            at = {"x": frame.x(place), "y": frame.y(max(value, 0)) - 4}
            parts.append(tag("text", show(name, value), **at, text_anchor="middle", class_="value"))
    told = ", ".join(f"{label} {show(name, value)}" for label, value in zip(labels, values, strict=True))
    return picture(f"{title(name)}: {told}", parts)


def stack(shares: Sequence[float], tone: int = 0) -> Markup:
    """A horizontal bar in parts, each a share of the whole width."""
    parts, start = list[Markup](), 0.0
    for place, share in enumerate(shares, start=tone):
        x, width = f"{100 * start:.2f}%", f"{100 * share:.2f}%"
        parts.append(tag("rect", x=x, width=width, height="100%", class_=f"fill t{place}"))
        start += share
    return tag("svg", *parts, class_="stack", aria_hidden="true")


def curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """Logged lines to training -> metric -> points; a step logged again after a resume counts once."""
    found: dict[str, dict[str, dict[float, float]]] = {}
    for row in metrics:
        named = found.setdefault(training_of(row), {})
        for name in row.keys() - {"stage", "iteration", "step", "num_steps", "time"}:
            if is_number(row[name]):
                named.setdefault(name, {})[row["step"]] = row[name]
    return {
        training: {n: sorted(p.items()) for n, p in sorted(named.items())}
        for training, named in sorted(found.items(), key=lambda item: _in_counting_order(item[0]))
    }


def points_for(drawn: Mapping[str, Mapping[str, Points]]) -> int:
    """How many points a curve may have, so that all curves of a page stay small together."""
    return max(24, min(MAX_POINTS, _ALL_POINTS // max(1, sum(map(len, drawn.values())))))


def _in_counting_order(name: str) -> str:
    """What to sort names by, so that iteration-10 comes after iteration-9."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(9), name)


def _thinned(points: Points, most: int) -> list[tuple[float, float]]:
    """At most `most` points and the last one, each the mean of its neighbours; the last one as it is."""
    stride = -(-len(points) // most)
    chunks = [points[start : start + stride] for start in range(0, len(points) - 1, stride)]
    means = [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]
    return [*means, points[-1]]


def _apart(heights: Sequence[float], gap: float = 12.0) -> list[float]:
    """The same heights, pushed down where two labels would lie on each other."""
    moved, last = list(heights), -math.inf
    for place in sorted(range(len(heights)), key=lambda place: heights[place]):
        moved[place] = last = max(heights[place], last + gap)
    return moved

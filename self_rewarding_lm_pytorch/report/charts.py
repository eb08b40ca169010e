"""Numbers as words and as small inline SVG pictures.

Pure functions from numbers to `Markup`; every text goes through markupsafe, so a name taken from a file
cannot become a tag. Colours are classes (`t0`, `t1`, ...) of page.css: one picture serves light and dark.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from self_rewarding_lm_pytorch.report.visible import visible

Points = Sequence[tuple[float, float]]
Tick = tuple[float, str]

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 40, 46, 25, 34
MAX_POINTS, MAX_BARS = 160, 24  # more are narrower than a pixel; more are a smear

TITLES = {
    "model": "Model",
    "true_score_mean": "True score",
    "true_score_perfect": "Perfect answers",
    "judge_spearman": "Judge Spearman",
    "judge_exact": "Judge exact",
    "win_rate_vs_previous": "Wins against previous",
    "mean_response_tokens": "Tokens per answer",
    "chosen_logprob_per_token": "chosen",
    "rejected_logprob_per_token": "rejected",
    "reward_chosen": "chosen",
    "reward_rejected": "rejected",
}
_SHARES = ("perfect", "exact", "rate", "share", "accuracy", "fraction")


def title(name: str) -> str:
    """A column's or metric's name as people write it."""
    return TITLES.get(name) or name.replace("_", " ").capitalize()


def is_number(value: object) -> bool:
    """Whether `value` can be drawn; NaN and infinities cannot."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_share(name: str) -> bool:
    return any(part in _SHARES for part in name.split("_")) and "learning" not in name


def show(name: str, value: Any) -> str:
    """A value as its column is read: shares in percent, absent ones as a dash."""
    if not is_number(value):
        return "–" if value is None else str(value)
    if is_share(name) and 0 <= value <= 1:
        return percent(value)
    if isinstance(value, int):
        return f"{value:,}"
    return (
        f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    )


def percent(share: float) -> str:
    """Rounded, but never to 0 % or 100 % where a few are left."""
    shown = f"{100 * share:.0f}"
    return f"{100 * share:.1f} %" if 0 < share < 1 and shown in ("0", "100") else f"{shown} %"


def duration(seconds: float) -> str:
    """At the precision people speak of: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """One element; `_` in an attribute's name stands for `-`, and a trailing one is dropped."""
    pairs = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()]
    shown = Markup("").join(Markup(' {}="{}"').format(key, visible(value)) for key, value in pairs)
    return Markup("<{}{}>{}</{}>").format(name, shown, Markup("").join(map(visible, children)), name)


def ticks(low: float, high: float, about: int = 4) -> list[Tick]:
    """Round numbers inside [low, high] with their labels."""
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    digits = len(f"{step:.6f}".rstrip("0").partition(".")[2])
    return [(step * n, f"{step * n:.{digits}f}") for n in range(first, last + 1)]


@dataclass(frozen=True)
class Frame:
    """Where numbers lie on the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def axes(
        self, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], x_label: str, y_label: str
    ) -> list[Markup]:
        """Grid lines, tick labels and what the axes mean."""
        floor = HEIGHT - BOTTOM
        parts = [tag("text", y_label, x=0, y=9, class_="axis")]
        for value, label in y_ticks:
            y = self.y(value)
            parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
            parts.append(tag("text", label, x=LEFT - 6, y=y + 3.5, text_anchor="end"))
        for value, label in x_ticks:
            parts.append(tag("text", label, x=self.x(value), y=floor + 14, text_anchor="middle"))
        middle = (LEFT + WIDTH - RIGHT) / 2
        return [*parts, tag("text", x_label, x=middle, y=HEIGHT - 4, text_anchor="middle", class_="axis")]


def _svg(label: str, parts: Sequence[str]) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label, class_="chart")


def lines(series: Mapping[str, Points], y_label: str, as_share: bool = False) -> Markup:
    """Curves over training steps, each with its last value written at its end."""
    thin = {name: _thinned(points) for name, points in series.items()}
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
    return _svg(f"{y_label}: {told}", parts)


def columns(name: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """One column for each model with its value on top."""
    values = [float(row[name]) for row in rows]
    natural = 5.0 if name == "true_score_mean" else 1.0 if is_share(name) or "spearman" in name else 0.0
    frame = Frame(-0.5, len(rows) - 0.5, min(0.0, *values), max(natural, *values, 1e-9))
    y_ticks = [(v, percent(v) if is_share(name) else t) for v, t in ticks(frame.y_low, frame.y_high, 5)]
    labels = [str(row.get("model", place + 1)) for place, row in enumerate(rows)]
    parts = frame.axes([(float(n), label) for n, label in enumerate(labels)], y_ticks, "model", "")
    for place, value in enumerate(values):
        parts.append(_bar(frame, place - 0.28, place + 0.28, value, "fill t0"))
        at = {"x": frame.x(place), "y": frame.y(max(value, 0)) - 4}
        parts.append(tag("text", show(name, value), **at, text_anchor="middle", class_="value"))
    told = ", ".join(f"{label} {show(name, value)}" for label, value in zip(labels, values, strict=True))
    return _svg(f"{title(name)}: {told}", parts)


def histogram(scores: Sequence[float], x_low: float, x_high: float, y_label: str) -> Markup:
    """How the scores spread between x_low and x_high, the mean marked."""
    bars = _bars(scores)
    half = max(width for _, width, _ in bars) / 2
    frame = Frame(x_low - half, x_high + half, 0.0, max(share for *_, share in bars))
    y_ticks = [(v, percent(v)) for v, _ in ticks(0.0, frame.y_high, 3)]
    parts = frame.axes(
        ticks(x_low, x_high, 5) if x_high > x_low else [(x_low, f"{x_low:g}")],
        y_ticks,
        "score",
        y_label,
    )
    for middle, width, share in bars:
        parts.append(_bar(frame, middle - width * 0.42, middle + width * 0.42, share, "fill t0"))
    mean = sum(scores) / len(scores)
    x = frame.x(mean)
    parts.append(tag("line", x1=x, x2=x, y1=TOP - 6, y2=HEIGHT - BOTTOM, class_="mark"))
    return _svg(f"{len(scores)} scores from {min(scores):g} to {max(scores):g}, mean {mean:.2f}", parts)


def stack(shares: Sequence[float], tone: int = 0) -> Markup:
    """A horizontal bar in parts, each a share of the whole width."""
    parts, start = list[Markup](), 0.0
    for place, share in enumerate(shares, start=tone):
        x, width = f"{100 * start:.2f}%", f"{100 * share:.2f}%"
        parts.append(tag("rect", x=x, width=width, height="100%", class_=f"fill t{place}"))
        start += share
    return tag("svg", *parts, class_="stack", aria_hidden="true")


def curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """Logged lines to stage -> metric -> points; a step logged again after a resume counts once."""
    found: dict[str, dict[str, dict[float, float]]] = {}
    for row in metrics:
        named = found.setdefault(str(row["stage"]), {})
        for name in row.keys() - {"stage", "step", "num_steps", "time"}:
            if is_number(row[name]):
                named.setdefault(name, {})[row["step"]] = row[name]
    return {
        stage: {n: sorted(p.items()) for n, p in sorted(named.items())}
        for stage, named in sorted(found.items())
    }


def _bar(frame: Frame, left: float, right: float, value: float, look: str) -> Markup:
    top, bottom = sorted((frame.y(value), frame.y(0)))
    x, width = frame.x(left), max(1.0, frame.x(right) - frame.x(left))
    return tag("rect", x=x, y=top, width=round(width, 1), height=round(bottom - top, 1), class_=look)


def _bars(scores: Sequence[float]) -> list[tuple[float, float, float]]:
    """(middle, width, share): a bar for each value where they are few, else equal bins."""
    counts = Counter(round(score, 3) for score in scores)
    if len(counts) <= MAX_BARS:
        gaps = [b - a for a, b in pairwise(sorted(counts))]
        return [(value, min(gaps, default=1.0), n / len(scores)) for value, n in sorted(counts.items())]
    low, width = min(scores), (max(scores) - min(scores)) / MAX_BARS
    bins = Counter(min(int((score - low) / width), MAX_BARS - 1) for score in scores)
    return [(low + (place + 0.5) * width, width, n / len(scores)) for place, n in sorted(bins.items())]


def _thinned(points: Points) -> list[tuple[float, float]]:
    """At most MAX_POINTS, each the mean of its neighbours; the last one as it is."""
    stride = -(-len(points) // MAX_POINTS)
    chunks = [points[start : start + stride] for start in range(0, len(points) - 1, stride)]
    means = [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]
    return [*means, points[-1]]


def _apart(heights: Sequence[float], gap: float = 12.0) -> list[float]:
    """The same heights, pushed down where two labels would lie on each other."""
    moved, last = list(heights), -math.inf
    for place in sorted(range(len(heights)), key=lambda place: heights[place]):
        moved[place] = last = max(heights[place], last + gap)
    return moved

"""The report cards of a run as the page shows them: a table over models, and the course of some measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from self_rewarding_lm_pytorch.evaluation.card_text import KEY_METRICS, METRICS, Meaning
from self_rewarding_lm_pytorch.report.svg import Frame, picture, tag, ticks
from self_rewarding_lm_pytorch.report.words import DASH, is_number, short

_DRAWN = (
    "pairwise_accuracy",
    "spearman",
    "spearman_pooled",
    "exact_score",
    "ece",
    "flip_share",
    "padded_shift",
)

_ENDS = {"share": (0.0, 1.0), "correlation": (-1.0, 1.0)}  # no axis goes beyond them


@dataclass(frozen=True)
class Line:
    """A metric over the models."""

    name: str
    title: str
    is_key: bool
    cells: list[tuple[str, str]]  # value and interval, as text


@dataclass(frozen=True)
class Cards:
    """What the page's section on the judge shows; falsy where there are no cards."""

    models: list[str]
    lines: list[Line]
    figures: list[tuple[str, Markup]]  # title, picture

    def __bool__(self) -> bool:
        return bool(self.models)


def cards_of(summary: Mapping[str, Any]) -> Cards:
    """From a summary's `judge` rows; what is not as it should be is as absent as what is missing."""
    given = summary.get("judge")
    rows = [row for row in given if isinstance(row, dict)] if isinstance(given, list) else []
    lines = [
        Line(name, meaning.title, name in KEY_METRICS, [_cell(row, name, meaning) for row in rows])
        for name, meaning in METRICS.items()
        if any(is_number(row.get(name)) for row in rows)
    ]
    models = [str(row.get("model", place)) for place, row in enumerate(rows)]
    figures = [(METRICS[name].title, course(name, rows, models)) for name in _DRAWN if _is_drawn(name, rows)]
    return Cards(models, lines, figures)


def _is_drawn(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return sum(is_number(row.get(name)) for row in rows) > 1


def _cell(row: Mapping[str, Any], name: str, meaning: Meaning) -> tuple[str, str]:
    ends = _ends(row, name)
    interval = f"{_text(ends[0], meaning)} to {_text(ends[1], meaning)}" if ends else ""
    return _text(row.get(name), meaning), interval


def _ends(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    every = row.get("intervals")
    ends = every.get(name) if isinstance(every, dict) else None
    if not (isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends))):
        return None
    return float(ends[0]), float(ends[1])


def _text(value: Any, meaning: Meaning) -> str:
    if not is_number(value):
        return DASH
    return f"{100 * value:.1f} %" if meaning.kind == "share" else f"{value:.3f}"


def course(name: str, rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> Markup:
    """A metric from model to model: points with their intervals, the last value written at the end."""
    meaning = METRICS[name]
    places = [n for n, row in enumerate(rows) if is_number(row.get(name))]
    known = [(n, float(rows[n][name]), _ends(rows[n], name)) for n in places]
    every = [end for _, value, ends in known for end in (value, *(ends or ()))]
    low, high = min(every), max(every)
    spare = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    lowest, highest = _ENDS.get(meaning.kind, (-math.inf, math.inf))
    frame = Frame(
        -0.3, len(rows) - 0.7, max(low - spare, min(lowest, low)), min(high + spare, max(highest, high))
    )
    y_ticks = [
        (value, f"{100 * value:.4g} %" if meaning.kind == "share" else text)
        for value, text in ticks(frame.y_low, frame.y_high)
    ]
    stride = -(-len(models) // 6)  # names that would lie on each other are left out
    x_ticks = [(float(n), short(model)) for n, model in enumerate(models) if n % stride == 0]
    parts = frame.axes(x_ticks, y_ticks, "", "")
    path = " ".join(f"{frame.x(n)},{frame.y(value)}" for n, value, _ in known)
    parts.append(tag("polyline", points=path, class_="line t0"))
    for n, value, ends in known:
        x = frame.x(n)
        if ends:
            low_y, high_y = map(frame.y, ends)
            parts.append(tag("line", x1=x, x2=x, y1=low_y, y2=high_y, class_="line t0"))
        parts.append(tag("circle", cx=x, cy=frame.y(value), r=3, class_="fill t0"))
    last, value, _ = known[-1]
    text = _text(value, meaning)
    parts.append(tag("text", text, x=frame.x(last) + 7, y=frame.y(value) + 3.5, class_="value t0"))
    told = ", ".join(f"{models[n]} {_text(value, meaning)}" for n, value, _ in known)
    return picture(f"{meaning.title}: {told}", parts)

"""Elements of inline SVG, and where numbers lie on a picture.

Every text goes through markupsafe, so that a name taken from a file cannot become a tag. Colours are classes
(`t0`, `t1`, ...) of page.css: one picture serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from self_rewarding_lm_pytorch.report.visible import visible

Tick = tuple[float, str]

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 40, 46, 25, 34


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """One element; `_` in an attribute's name stands for `-`, and a trailing one is dropped."""
    pairs = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()]
    shown = Markup("").join(Markup(' {}="{}"').format(key, visible(value)) for key, value in pairs)
    return Markup("<{}{}>{}</{}>").format(name, shown, Markup("").join(map(visible, children)), name)


def picture(label: str, parts: Sequence[str]) -> Markup:
    """A picture of the common size with what it shows in words."""
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label, class_="chart")


def ticks(low: float, high: float, about: int = 4) -> list[Tick]:
    """Round numbers inside [low, high] with their labels."""
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    digits = len(f"{step:.6f}".rstrip("0").partition(".")[2])
    return [(step * n, f"{step * n:,.{digits}f}") for n in range(first, last + 1)]


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

    def bar(self, left: float, right: float, value: float, look: str) -> Markup:
        """From zero to `value`, at least a pixel wide."""
        top, bottom = sorted((self.y(value), self.y(0)))
        x, width = self.x(left), max(1.0, self.x(right) - self.x(left))
        return tag("rect", x=x, y=top, width=round(width, 1), height=round(bottom - top, 1), class_=look)

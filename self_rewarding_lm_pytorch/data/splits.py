"""Splits and their slices, as the library `datasets` writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PIECE = re.compile(r"(?P<name>[\w.\-]+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


@dataclass(frozen=True)
class Slice:
    """A split's name, and from where to where it is read: rows, or percent with a % behind; "" for an end."""

    name: str
    start: str = ""
    stop: str = ""

    @property
    def needs_total(self) -> bool:
        return any(bound.startswith("-") or bound.endswith("%") for bound in (self.start, self.stop))

    def of(self, total: int) -> slice:
        """Of `total` rows. Percentages are rounded to the nearest row, so that [:95%] and [95%:] are all."""
        return slice(_place(self.start, total), _place(self.stop, total))


def pieces(split: str) -> list[Slice]:
    """`NAME`, `NAME[FROM:TO]`, or several joined by `+`. Raises ValueError for what is neither."""
    found = [_PIECE.fullmatch(part.strip()) for part in split.split("+")]
    made = [Slice(one["name"], one["start"] or "", one["stop"] or "") for one in found if one is not None]
    if len(made) < len(found) or any(_is_odd(piece) for piece in made):
        raise ValueError(
            f"split {split!r} is not read: write a name, as train, or a part of it, as train[:95%], "
            "train[95%:] or train[100:200]; several are joined by +"
        )
    return made


def _is_odd(piece: Slice) -> bool:
    bounds = [bound for bound in (piece.start, piece.stop) if bound]
    percents = [int(bound.rstrip("%")) for bound in bounds if bound.endswith("%")]
    return len(percents) not in (0, len(bounds)) or any(abs(percent) > 100 for percent in percents)


def _place(bound: str, total: int) -> int | None:
    if not bound:
        return None
    if not bound.endswith("%"):
        return int(bound)
    percent = int(bound.rstrip("%"))
    return round((percent if percent >= 0 else 100 + percent) * total / 100)

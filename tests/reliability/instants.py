"""Instants to kill at, drawn within the units of work of an uninterrupted run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.reliability.children import Instant, Story


@dataclass(frozen=True)
class Unit:
    """A piece of work between two things that a run told."""

    what: str
    number: int  # which of the units of that name it is, from 1
    kind: str
    seconds: float

    def instant(self, draw: random.Random) -> Instant:
        """Any moment of it is as likely as any other."""
        return Instant(self.what, self.number, draw.random() * self.seconds)


def units_of(story: Story) -> list[Unit]:
    """In order; what came before the first thing told is starting up, and no unit."""
    seen: Counter[str] = Counter()
    ends = [moment.at for moment in story.moments[1:]] + [story.ended]
    units = []
    for moment, end in zip(story.moments, ends, strict=True):
        seen[moment.what] += 1
        units.append(Unit(moment.what, seen[moment.what], moment.kind, end - moment.at))
    return units


def shorter(units: Sequence[Unit], others: Sequence[Unit]) -> list[Unit]:
    """The units, each as long as in the run that was faster with it."""
    seconds = {(unit.what, unit.number): unit.seconds for unit in others}
    return [
        replace(unit, seconds=min(unit.seconds, seconds.get((unit.what, unit.number), unit.seconds)))
        for unit in units
    ]


def drawn(units: Sequence[Unit], kind: str, within: str, draw: random.Random) -> Unit:
    """One of the units of a kind whose description holds `within`; each is as likely as any other."""
    found = [unit for unit in units if unit.kind == kind and within in unit.what]
    if not found:
        kinds = dict(Counter(unit.kind for unit in units))
        raise LookupError(f"the run has no unit of kind {kind!r} with {within!r} in its name; it has {kinds}")
    return draw.choice(found)


def after(units: Sequence[Unit], unit: Unit) -> list[Unit]:
    """The units from this one on, numbered as a run that begins here would meet them."""
    seen: Counter[str] = Counter()
    later = []
    for each in units[units.index(unit) :]:
        seen[each.what] += 1
        later.append(Unit(each.what, seen[each.what], each.kind, each.seconds))
    return later

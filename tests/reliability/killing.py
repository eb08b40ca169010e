"""Kills runs and runs them again, and compares what they came to with a run that was left alone."""

from __future__ import annotations

import functools
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from tests.reliability.children import Child, Story, commanded, followed, forked
from tests.reliability.fingerprints import Fingerprint, differences, fingerprint
from tests.reliability.instants import Unit, after, drawn, shorter, units_of
from tests.reliability.moments import COMMAND
from tests.reliability.worlds import plan

ATTEMPTS = 8
"""So often another instant is drawn where a kill came too late for the unit that it was meant for."""


@dataclass(frozen=True)
class Case:
    """A kill that is wanted: in a unit of this kind of a world's run, whose description holds `within`.

    again: so many further kills, one in each run that goes on; those may be anywhere.
    """

    kind: str
    world: str
    within: str = ""
    again: int = 0


@dataclass(frozen=True)
class Kill:
    """One kill, and how the run it was in ended after all."""

    world: str
    kind: str  # of what was running
    what: str
    milliseconds: float  # after that had begun
    resumed_seconds: float  # of the process that went on, until it was done or killed in turn
    was_killed_again: bool
    differs_in: tuple[str, ...] = ()

    @property
    def is_identical(self) -> bool:
        return not self.differs_in


@dataclass(frozen=True)
class Uninterrupted:
    """What a run comes to when nobody kills it, and the units of its work."""

    units: list[Unit]
    result: Fingerprint


class Killer:
    """Draws instants, kills, resumes and compares. folder: where the runs go; each gets one of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._known: dict[tuple[str, bool], Uninterrupted] = {}
        self._num_runs = 0

    def uninterrupted(self, world: str, *, as_command: bool = False) -> Uninterrupted:
        """Run twice per world, as a function, to the same result; the command must come to that, too.

        A unit's time is the shorter of the two, so that few kills come too late.
        """
        key = (world, as_command)
        if key not in self._known:
            warm_up()
            once = self._left_alone(world, as_command)
            again = self.uninterrupted(world) if as_command else self._left_alone(world, as_command)
            differing = differences(once.result, again.result)
            assert not differing, f"two runs of {world} that nobody killed differ in {', '.join(differing)}"
            self._known[key] = replace(once, units=shorter(once.units, again.units))
        return self._known[key]

    def _left_alone(self, world: str, as_command: bool) -> Uninterrupted:
        settings = self._settings(world)
        story = followed(_start(as_command)(settings))
        return Uninterrupted(units_of(story), fingerprint(Path(settings["run"])))

    def kills(self, number: int, case: Case) -> tuple[list[Kill], bool]:
        """All kills that it took, and whether one was where the case wants it. number: of the draws."""
        made: list[Kill] = []
        for attempt in range(ATTEMPTS):
            draw = random.Random(f"{self._seed} {number} {attempt}")
            chain = self._chain(case, draw)
            made += chain
            is_there = bool(chain) and chain[0].kind == case.kind and case.within in chain[0].what
            if is_there and len(chain) == 1 + case.again:
                return made, True
        return made, False

    def _chain(self, case: Case, draw: random.Random) -> list[Kill]:
        """Kills one after the other, then the run's end; none where it was done before the first."""
        as_command = case.kind == COMMAND
        known = self.uninterrupted(case.world, as_command=as_command)
        settings, start = self._settings(case.world), _start(as_command)
        units = known.units
        unit = drawn(units, case.kind, case.within, draw)
        chain: list[Kill] = []
        story, _ = _timed(lambda: followed(start(settings), unit.instant(draw)))
        while story.was_cut_off:
            # Where the run that goes on does not come to that unit, it simply ends.
            instant = None
            if len(chain) < case.again:
                units = after(units, unit)
                unit = draw.choice(units)
                instant = unit.instant(draw)
            killed = story
            story, seconds = _timed(lambda settings=settings, at=instant: followed(start(settings), at))
            chain.append(_kill(case.world, killed, seconds, story.was_cut_off))
        if story.was_killed:
            followed(start(settings))  # all was done already; this adds nothing
        differs = tuple(differences(fingerprint(Path(settings["run"])), known.result))
        return [replace(kill, differs_in=differs) for kill in chain]

    def _settings(self, world: str) -> dict[str, Any]:
        self._num_runs += 1
        return plan(world, self._folder / f"{self._num_runs:03d}-{world}")


@functools.cache
def warm_up() -> None:
    """Imports all that a run imports, so that forks of this process start at once."""
    with tempfile.TemporaryDirectory() as folder:
        run(plan("judged", Path(folder) / "run"), reporter=Reporter(quiet=True))


def _start(as_command: bool) -> Callable[[dict[str, Any]], Child]:
    return commanded if as_command else forked


def _timed(work: Callable[[], Story]) -> tuple[Story, float]:
    started = time.monotonic()
    return work(), time.monotonic() - started


def _kill(world: str, story: Story, resumed_seconds: float, was_killed_again: bool) -> Kill:
    last = story.moments[-1]
    into = max(0.0, story.ended - last.at) * 1000  # it may say one thing more as it is killed
    return Kill(world, last.kind, last.what, into, resumed_seconds, was_killed_again)


def last_line(kills: Sequence[Kill]) -> str:
    return f"kills: {len(kills)} identical: {sum(kill.is_identical for kill in kills)}"

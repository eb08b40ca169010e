"""Which prompts begin alike, so that the beginning is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from self_rewarding_lm_pytorch.models.caches import Tokens

SHORTEST_PREFIX = 16
"""A shorter common beginning is not worth a level of attention of its own."""


@dataclass(frozen=True)
class Family:
    """Prompts with a common beginning, or one prompt alone."""

    members: list[int]  # numbers of the prompts
    stem: int  # tokens in which they agree; at least one of each is left over

    @property
    def rank(self) -> int:
        """Families of about one size, a factor of two, share a rank: they fit a batch."""
        return len(self.members).bit_length()


def shared_prefix(prompts: Sequence[Tokens]) -> tuple[int, ...]:
    """What all prompts begin with, at least one token of each left over; empty if not worth sharing."""
    if len(prompts) < 2:
        return ()
    # The first and the last in order differ the earliest.
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    length = min(_agreement(first, last), min(map(len, prompts)) - 1)
    return first[:length] if length >= SHORTEST_PREFIX else ()


def families(prompts: Sequence[Tokens], start: int = 0) -> list[Family]:
    """Every prompt in one family, so that the fewest tokens are read twice.

    A stem counts from token `start`, up to which all prompts agree. In order, prompts with a common
    beginning are neighbours; such runs nest, and each run is one family if that saves more than those in it.
    """
    own = [tuple(prompt[start:]) for prompt in prompts]
    order = sorted(range(len(own)), key=own.__getitem__)
    runs = [_Run(-1)]  # open, each within the one before it
    for each, following in zip_longest(order, order[1:]):
        common = -1
        if following is not None:
            shorter = min(len(own[each]), len(own[following]))
            common = min(_agreement(own[each], own[following]), shorter - 1)
        if common > runs[-1].stem:
            runs.append(_Run(common))
        runs[-1].add([Family([each], 0)], 0)
        while runs[-1].stem > common:
            inner = runs.pop()
            if runs[-1].stem < common:
                runs.append(_Run(common))
            runs[-1].add(*inner.closed())
    return runs[0].families


def reading_order(prompts: Sequence[Tokens], start: int = 0) -> list[int]:
    """Large families first, their members side by side, and among families of a rank the longest first."""
    kin = families(prompts, start)
    for family in kin:
        family.members.sort(key=lambda number: -len(prompts[number]))
    kin.sort(key=lambda family: (-family.rank, -len(prompts[family.members[0]])))
    return [number for family in kin for number in family.members]


class _Run:
    """Neighbours, in order, that agree in `stem` tokens."""

    def __init__(self, stem: int) -> None:
        self.stem = stem
        self.families: list[Family] = []
        self.saved = 0  # tokens that these families need not read again

    def add(self, families: list[Family], saved: int) -> None:
        self.families += families
        self.saved += saved

    def closed(self) -> tuple[list[Family], int]:
        """As one family if that saves more, and what is saved."""
        members = [member for family in self.families for member in family.members]
        saved = self.stem * (len(members) - 1)
        if self.stem < SHORTEST_PREFIX or saved < self.saved:
            return self.families, self.saved
        return [Family(members, self.stem)], saved


def _agreement(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))

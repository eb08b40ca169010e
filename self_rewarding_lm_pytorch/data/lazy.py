"""Sequences whose items are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import TypeVar, overload

T_co = TypeVar("T_co", covariant=True)


class Lazy(Sequence[T_co]):
    """A sequence by its length and its items' places."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, place: int) -> T_co:
        """The item at a place, 0 to len - 1."""

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | list[T_co]:
        """A slice is a list: it holds its items."""
        if isinstance(index, slice):
            return [self.at(place) for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return self.at(place)

    def __iter__(self) -> Iterator[T_co]:
        return map(self.at, range(len(self)))


class Joined(Lazy[T_co]):
    """Sequences one after the other."""

    def __init__(self, *parts: Sequence[T_co]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def at(self, place: int) -> T_co:
        number = bisect_right(self._ends, place)
        return self._parts[number][place - (self._ends[number - 1] if number else 0)]

    def __iter__(self) -> Iterator[T_co]:
        return chain.from_iterable(self._parts)

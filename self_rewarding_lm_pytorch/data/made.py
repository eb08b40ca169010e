"""What is made of each row, with the file named where a row is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from self_rewarding_lm_pytorch.data.readers import Source, each_row, is_in_files, parts_of
from self_rewarding_lm_pytorch.data.roles import Roles, held_to
from self_rewarding_lm_pytorch.data.sources import described
from self_rewarding_lm_pytorch.errors import DataError

Made = TypeVar("Made")


def each_made(
    source: Source, make: Callable[[Any, int], Made], *, base: Path | None = None, is_steady: bool = True
) -> Iterator[Made]:
    """`make(row, number)` for each row of the source, as it is read, numbered over all its files from 0.

    is_steady: rows of one file must say what they hold under the names that its first row has.
    A DataError of `make` says the row's file too, and where the source is several, its number there.
    """
    parts = parts_of(source, base=base)
    number = 0
    for part in parts:
        first: Roles | None = None
        for own, row in enumerate(each_row(part, base=base)):
            try:
                if is_steady and isinstance(row, Mapping):
                    first = first or Roles.of(row, number)
                    held_to(first, row, number)
                made = make(row, number)
            except DataError as error:
                if not is_in_files(part):
                    raise
                place = f", its item {own}" if len(parts) > 1 else ""
                raise DataError(f"{_said(part)}{place}: {error}") from error
            yield made
            number += 1


def _said(part: Any) -> str:
    wanted = described(part)
    place = part if wanted is None else wanted.file
    return str(place) if isinstance(place, str | Path) else f"data source {part!r:.200}"

"""What is made of each row, with the file named where a row is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from self_rewarding_lm_pytorch.data.readers import Source, each_row, is_in_files
from self_rewarding_lm_pytorch.data.sources import described
from self_rewarding_lm_pytorch.errors import DataError

Made = TypeVar("Made")


def each_made(
    source: Source, make: Callable[[Any, int], Made], *, base: Path | None = None
) -> Iterator[Made]:
    """`make(row, number)` for each row of the source, as it is read, numbered over all its files from 0.

    A DataError of `make` says the row's file too, and where the source is several, its number there.
    """
    is_several = isinstance(source, list | tuple) and is_in_files(source)
    number = 0
    for part in source if is_several else [source]:
        for own, row in enumerate(each_row(part, base=base)):
            try:
                made = make(row, number)
            except DataError as error:
                if not is_in_files(part):
                    raise
                place = f", its item {own}" if is_several else ""
                raise DataError(f"{_said(part)}{place}: {error}") from error
            yield made
            number += 1


def _said(part: Any) -> str:
    wanted = described(part)
    place = part if wanted is None else wanted.file
    return str(place) if isinstance(place, str | Path) else f"data source {part!r:.200}"

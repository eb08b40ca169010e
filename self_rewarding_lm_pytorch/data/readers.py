"""What people bring, read into rows: JSON Lines, JSON, CSV, Parquet, plain text, the hub, or any sequence."""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from self_rewarding_lm_pytorch.data import hub
from self_rewarding_lm_pytorch.data.sources import HUB, DataSource, described, is_text
from self_rewarding_lm_pytorch.data.text_files import READ, text_file_rows, unreadable
from self_rewarding_lm_pytorch.errors import DataError

Source = Any
"""A path, a hub name or a described source (sources.py), a list of these, or items in memory: anything with
`len` and integer indexing, or an iterable."""


def read_rows(source: Source, *, base: Path | None = None) -> list[Any]:
    """Every item of the source, in order, each read once. Several files are joined.

    base: the folder that relative paths start from (the plan's).
    """
    if (wanted := described(source)) is not None:
        return _described_rows(wanted, base)
    if isinstance(source, str | Path):
        return _read_file(_resolved(Path(source), base), DataSource(file=source))
    if is_in_files(source):
        return [row for part in source for row in read_rows(part, base=base)]
    return _in_memory(source)


def each_row(source: Source, *, base: Path | None = None) -> Iterator[Any]:
    """What `read_rows` gives, an item at a time: files are read as far as their rows are asked for.

    Of a described file whose `share` is wanted the rows are counted first. What the library `datasets` reads,
    message trees and JSON lists are held while they are read.
    """
    wanted = described(source)
    if wanted is not None and wanted.file is not None and not _is_saved_set(wanted.file, base):
        yield from _each_picked(wanted, base)
    elif wanted is not None:
        yield from _described_rows(wanted, base)
    elif isinstance(source, str | Path):
        yield from _each_of_file(_resolved(Path(source), base), DataSource(file=source))
    elif is_in_files(source):
        for part in source:
            yield from each_row(part, base=base)
    elif hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, Mapping):
        yield from (source[place] for place in range(len(source)))
    elif isinstance(source, Iterable) and not isinstance(source, Mapping):
        yield from source
    else:
        yield from _in_memory(source)  # which says what is wrong


def _is_saved_set(file: Any, base: Path | None) -> bool:
    return isinstance(file, str | Path) and hub.is_saved(_resolved(Path(file), base))


def _each_picked(source: DataSource, base: Path | None) -> Iterator[Any]:
    total = sys.maxsize if source.share == 1 else sum(1 for _ in each_row(source.file, base=base))
    places = source.picked(total)
    rows = islice(each_row(source.file, base=base), places.start, places.stop)
    number = -1
    for number, row in enumerate(rows):
        yield source.shaped(row, number)
    if number < 0:
        raise _nothing_left(source)


def _in_memory(source: Source, wanted: DataSource | None = None) -> list[Any]:
    if hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, Mapping):
        places = range(len(source)) if wanted is None else wanted.picked(len(source))
        return [source[i] for i in places]
    if isinstance(source, Iterable) and not isinstance(source, Mapping):
        rows = list(source)
        return rows if wanted is None else [rows[i] for i in wanted.picked(len(rows))]
    raise DataError(f"data must be a path, a sequence or an iterable, not {type(source).__name__}")


def _described_rows(source: DataSource, base: Path | None) -> list[Any]:
    if source.hub is not None:
        rows = hub.hub_rows(source, base)
    elif source.rows is not None:
        rows = _in_memory(source.rows, source)
    elif source.open_assistant is not None:
        from self_rewarding_lm_pytorch.data.open_assistant import best_replies  # which reads by this file

        rows = _in_memory(best_replies(source.open_assistant_source(), source.lang, base=base), source)
    elif isinstance(source.file, str | Path) and hub.is_saved(found := _resolved(Path(source.file), base)):
        rows = hub.saved_rows(found, source)
    else:
        rows = _in_memory(read_rows(source.file, base=base), source)
    if not rows:
        raise _nothing_left(source)
    return [source.shaped(row, number) for number, row in enumerate(rows)]


def _nothing_left(source: DataSource) -> DataError:
    return DataError(
        f"the data source {source.said()!r:.200} leaves no items, so there is nothing to work on"
    )


def is_in_files(source: Source) -> bool:
    """Whether the source names files or data sets, which can be read again, and not items in memory."""
    if isinstance(source, list | tuple):
        return bool(source) and all(_is_place(part) for part in source)
    wanted = described(source)
    return wanted.is_in_files if wanted is not None else isinstance(source, str | Path)


def file_hashes(source: Source, *, base: Path | None = None) -> dict[str, str]:
    """File -> SHA-256 of its bytes, for every file of the source; none where the data are in memory."""
    if not is_in_files(source):
        return {}
    if isinstance(source, list | tuple):
        return {name: value for part in source for name, value in file_hashes(part, base=base).items()}
    wanted = described(source)
    if wanted is None:
        return {str(source): _digest(_resolved(Path(source), base))}
    if wanted.hub is not None:
        return {f"{HUB}{wanted.hub}#split={wanted.split}": hub.hub_hash(wanted, base)}
    place = wanted.file if wanted.file is not None else wanted.open_assistant_source()
    return file_hashes(place, base=base)


def _digest(path: Path) -> str:
    if path.is_dir():
        return hub.saved_hash(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def _is_place(part: Any) -> bool:
    return isinstance(part, Path) or _is_path(part) or _is_described_place(part)


def _is_path(part: Any) -> bool:
    is_source = is_text(part) and not part.partition(":")[2][:1].isspace()  # "file: what is it?" is a prompt
    return isinstance(part, str) and (is_source or Path(part).suffix.lower() in READ)


def _is_described_place(source: Any) -> bool:
    """Rows in memory may have a column called `file`; it is a source only where every key is one of those."""
    is_source = isinstance(source, Mapping) and set(source) <= set(DataSource.model_fields)
    wanted = described(source) if is_source or isinstance(source, DataSource) else None
    return wanted is not None and wanted.is_in_files


def _resolved(path: Path, base: Path | None) -> Path:
    beside = base / path if base is not None else path
    found = beside if beside.exists() else path
    if found.is_dir() and not hub.is_saved(found):
        raise DataError(
            f"{str(path)!r} is a folder, but none that `datasets` saved; name a data file in it, or give "
            f"{{hub: {path}}} to read the data files in it together"
        )
    if not found.exists():
        raise DataError(
            f"there is no data file {str(path)!r} (looked in {beside.parent.resolve()}){_near(beside)}"
        )
    return found


def _near(path: Path) -> str:
    """What was perhaps meant."""
    if path.is_symlink():
        return f"; it is a link to {str(path.readlink())!r}, which is not there"
    try:
        there = [file.name for file in path.parent.iterdir()]
    except OSError:
        return "; that folder is not there either. Relative names start from the plan's folder"
    near = difflib.get_close_matches(path.name, there, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; relative names start from the plan's folder"


def _read_file(path: Path, source: DataSource) -> list[Any]:
    return list(_each_of_file(path, source))


def _each_of_file(path: Path, source: DataSource) -> Iterator[Any]:
    is_empty = True
    for row in hub.saved_rows(path, source) if path.is_dir() else file_rows(path):
        is_empty = False
        yield row
    if is_empty:
        raise DataError(f"{path} holds no items, so there is nothing to work on; give a file that has some")


def file_rows(path: Path) -> Iterator[Any]:
    """The rows of one file, read as they are asked for. Raises DataError with the place of what is wrong."""
    if path.suffix.lower() != ".parquet":
        yield from text_file_rows(path)
        return
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet: {error}. It may have been cut off: copy or export it again"
        ) from error

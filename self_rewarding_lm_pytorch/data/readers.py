"""What people bring, as rows: JSON Lines, JSON, CSV, TSV, Parquet, plain text, the hub, or any sequence.

Rows are read as they are asked for: of a file, or of a data set that `datasets` reads, no more than a batch
is held. Open Assistant's messages are held while they are read.
"""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from self_rewarding_lm_pytorch.data import hub
from self_rewarding_lm_pytorch.data.lines import unreadable
from self_rewarding_lm_pytorch.data.sources import HUB, DataSource, described, is_text
from self_rewarding_lm_pytorch.data.text_files import READ, ending_of, text_file_rows
from self_rewarding_lm_pytorch.errors import DataError

Source = Any
"""A path, a hub name or a described source (sources.py), a list of these, or items in memory: anything with
`len` and integer indexing, or an iterable."""


def read_rows(source: Source, *, base: Path | None = None) -> list[Any]:
    """Every item of the source, in order, each read once. Several files are joined.

    base: the folder that relative paths start from (the plan's).
    """
    return list(each_row(source, base=base))


def each_row(source: Source, *, base: Path | None = None) -> Iterator[Any]:
    """What `read_rows` gives, an item at a time.

    Of a described file of which a share or percentage is wanted the rows are counted first.
    """
    wanted = described(source)
    if wanted is not None:
        yield from _each_described(wanted, base)
    elif isinstance(source, str | Path) and not is_pattern(source):
        yield from _each_of_file(resolved(Path(source), base), DataSource(file=source))
    elif is_in_files(source):
        for part in parts_of(source, base=base):
            yield from each_row(part, base=base)
    else:
        yield from _in_memory(source)


def parts_of(source: Source, *, base: Path | None = None) -> list[Source]:
    """The files or data sets that a list or a pattern names, in order; else the source alone.

    Raises DataError for a pattern that fits no file.
    """
    if isinstance(source, list | tuple) and is_in_files(source):
        return [part for each in source for part in parts_of(each, base=base)]
    if isinstance(source, str | Path) and not is_text(source) and is_pattern(source):
        return list(_matching(str(source), base))
    return [source]


def is_pattern(place: str | Path) -> bool:
    """Whether a path is a pattern of several: it has a `*` or a `?`, and is no file itself."""
    return any(mark in str(place) for mark in "*?") and not Path(place).exists()


def _matching(pattern: str, base: Path | None) -> list[str]:
    """Names as the pattern has them: relative to where it is."""
    for folder in dict.fromkeys((base or Path(), Path())):
        names = sorted(glob(pattern, root_dir=folder, recursive=True))
        if files := [name for name in names if (folder / name).is_file()]:
            return files
    raise DataError(
        f"no file fits {pattern!r} (looked in {(base or Path()).resolve()}); relative patterns start from "
        "the plan's folder"
    )


def _each_described(source: DataSource, base: Path | None) -> Iterator[Any]:
    number = -1
    for number, row in enumerate(_picked_rows(source, base)):
        yield source.shaped(row, number)
    if number < 0:
        raise _nothing_left(source)


def _picked_rows(source: DataSource, base: Path | None) -> Iterator[Any]:
    if source.hub is not None:
        return hub.hub_rows(source, base)
    if source.file is not None and _is_saved_set(source.file, base):
        return hub.saved_rows(resolved(Path(source.file), base), source)
    if source.open_assistant is not None:
        from self_rewarding_lm_pytorch.data.open_assistant import best_replies  # which reads by this file

        best = best_replies(source.open_assistant_source(), source.lang, base=base)
        return (best[place] for place in source.picked(len(best), of_slice=True))
    if source.rows is not None:
        held = source.rows if is_sequence(source.rows) else list(_in_memory(source.rows))
        return (held[place] for place in source.picked(len(held)))
    total = sys.maxsize
    if source.needs_total:
        total = sum(1 for _ in each_row(source.file, base=base))
    places = source.picked(total)
    return islice(each_row(source.file, base=base), places.start, places.stop)


def _is_saved_set(file: Any, base: Path | None) -> bool:
    is_path = isinstance(file, str | Path) and not is_pattern(file)
    return is_path and hub.is_saved(resolved(Path(file), base))


def is_sequence(source: Source) -> bool:
    """Whether the source has a length, and items by their numbers."""
    return (
        hasattr(source, "__len__")
        and hasattr(source, "__getitem__")
        and not isinstance(source, Mapping | str)
    )


def _in_memory(source: Source) -> Iterator[Any]:
    if is_sequence(source):
        yield from (source[place] for place in range(len(source)))
    elif isinstance(source, Iterable) and not isinstance(source, Mapping):
        yield from source
    else:
        raise DataError(f"data must be a path, a sequence or an iterable, not {type(source).__name__}")


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
    if (parts := parts_of(source, base=base)) != [source]:
        return {name: value for part in parts for name, value in file_hashes(part, base=base).items()}
    wanted = described(source)
    if wanted is None:
        return {str(source): _digest(resolved(Path(source), base))}
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
    return isinstance(part, str) and (is_source or ending_of(part) in READ)


def _is_described_place(source: Any) -> bool:
    """Rows in memory may have a column called `file`; it is a source only where every key is one of those."""
    is_source = isinstance(source, Mapping) and set(source) <= set(DataSource.model_fields)
    wanted = described(source) if is_source or isinstance(source, DataSource) else None
    return wanted is not None and wanted.is_in_files


def resolved(path: Path, base: Path | None) -> Path:
    """A path as it stands beside the plan, or in the working directory. Raises DataError where it is not."""
    path = path.expanduser()
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


def _each_of_file(path: Path, source: DataSource) -> Iterator[Any]:
    is_empty = True
    for row in hub.saved_rows(path, source) if path.is_dir() else file_rows(path):
        is_empty = False
        yield row
    if is_empty:
        raise DataError(f"{path} holds no items, so there is nothing to work on; give a file that has some")


_BUFFER = 2**18  # bytes of each column; without it, or read ahead, whole row groups are held
_BATCH = 256  # rows, which may be long conversations


def file_rows(path: Path) -> Iterator[Any]:
    """The rows of one file, read as they are asked for. Raises DataError with the place of what is wrong."""
    if path.suffix.lower() != ".parquet":
        yield from text_file_rows(path)
        return
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet: {error}. It may have been cut off: copy or export it again"
        ) from error

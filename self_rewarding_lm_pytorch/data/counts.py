"""How many rows a source has, where that is cheap to tell."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from self_rewarding_lm_pytorch.data import hub
from self_rewarding_lm_pytorch.data.lines import PACKED
from self_rewarding_lm_pytorch.data.readers import (
    Source,
    each_row,
    file_rows,
    is_in_files,
    is_sequence,
    parts_of,
    resolved,
)
from self_rewarding_lm_pytorch.data.sources import DataSource, described
from self_rewarding_lm_pytorch.errors import DataError

_CHEAP = 2**25  # bytes of a text file that is read through to count its rows


def number_of_rows(source: Source, *, base: Path | None = None) -> int:
    """Of any source that can be read again; what cannot be told otherwise is read, a row at a time."""
    count = count_rows(source, base=base)
    return sum(1 for _ in each_row(source, base=base)) if count is None else count


def count_rows(source: Source, *, base: Path | None = None) -> int | None:
    """Of items in memory, Parquet, small text files, what `datasets` saved, and described parts of these.

    None where much would have to be read, or fetched. Raises DataError for what cannot be read.
    """
    wanted = described(source)
    if wanted is not None:
        return _of_described(wanted, base)
    if not is_in_files(source):
        return len(source) if is_sequence(source) else None
    parts = parts_of(source, base=base)
    if parts != [source]:
        counts = [count_rows(part, base=base) for part in parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None
    return _of_file(resolved(Path(source), base))


def _of_described(source: DataSource, base: Path | None) -> int | None:
    if source.file is not None:
        if isinstance(source.file, str | Path) and hub.is_saved(_beside(Path(source.file), base)):
            return hub.saved_count(resolved(Path(source.file), base), source)
        count = count_rows(source.file, base=base)
        return None if count is None else len(source.picked(count))
    if source.rows is None or not is_sequence(source.rows):
        return None
    return len(source.picked(len(source.rows)))


def _beside(path: Path, base: Path | None) -> Path:
    beside = path if base is None else base / path
    return beside if beside.exists() else path


def _of_file(path: Path) -> int | None:
    if path.is_dir():
        return hub.saved_count(path, DataSource(file=path))
    if path.suffix.lower() == ".parquet":
        try:
            with pq.ParquetFile(path) as file:
                return int(file.metadata.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path} cannot be read as Parquet: {error}. It may have been cut off: copy it again"
            ) from error
    is_small = path.stat().st_size <= _CHEAP and path.suffix.lower() not in PACKED
    return sum(1 for _ in file_rows(path)) if is_small else None

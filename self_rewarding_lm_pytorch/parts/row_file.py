"""A command's rows on disk: kept as they come, gone on with, and in their file once all are there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from self_rewarding_lm_pytorch import interrupts, processes
from self_rewarding_lm_pytorch.data.files import json_line, write_atomically, write_json, write_text
from self_rewarding_lm_pytorch.data.store import VOTE
from self_rewarding_lm_pytorch.errors import ConfigError, DataError

Row = dict[str, Any]

_ROWS_AT_ONCE = 1024
_IDS = pa.list_(pa.int32())
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_VOTES = pa.list_(VOTE)
_TYPES: dict[str, pa.DataType] = {
    "prompt_index": pa.int64(),
    "candidate": pa.int32(),
    "tokens": pa.int32(),
    "ids": _IDS,
    "key": pa.int64(),
    "score": pa.float64(),
    "votes": _VOTES,
    "chosen_score": pa.float64(),
    "rejected_score": pa.float64(),
    "chosen_candidate": pa.int32(),
    "rejected_candidate": pa.int32(),
}
_TEXTS = ("prompt", "chosen", "rejected")  # or messages


class RowFile:
    """OUT, and while rows are still made OUT.partial.jsonl; OUT.settings.json says what they are made by.

    out: .jsonl, .json or no ending are written as JSON Lines, .parquet as Parquet.
    settings: JSON of all that decides the rows; others than those of the last time are refused.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        check_ending(out)
        self.out = out
        self.partial = out.with_name(f"{out.name}.partial.jsonl")
        self.notes = settings_path(out)
        self._settings = json.loads(json.dumps(settings))
        self._size = 0

    @property
    def is_finished(self) -> bool:
        return processes.agreed(self.out.exists())

    def begin(self, ends: Sequence[int]) -> int:
        """How many of its rows are there already.

        ends: after how many rows each piece of work is done; a piece that was cut off is done again.
        Raises ConfigError where the file is another command's, or was begun with other settings.
        """
        return processes.on_main(lambda: self._begin(ends))

    def _begin(self, ends: Sequence[int]) -> int:
        before = self._before()
        is_finished = self.out.exists()
        if not is_finished and not _has_rows(self.partial):
            return 0  # nothing that other settings made is there yet
        self._check(before or {})
        if is_finished:
            return ends[-1] if ends else 0
        kept, self._size = _whole_lines(self.partial, {0, *ends})
        return kept

    def _before(self) -> dict[str, Any] | None:
        """The settings that the rows there were made by."""
        if not self.notes.exists():
            there = next((file for file in (self.out, self.partial) if file.exists()), None)
            if there is not None:
                raise ConfigError(
                    f"{there} is there already, and no {self.notes.name} beside it says what made it, so it "
                    "would be written over; name another file with --out, or delete it"
                )
            return None
        try:
            before: dict[str, Any] = json.loads(self.notes.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.notes} cannot be read ({error}); delete it and {self.out}") from error
        return before

    def _check(self, before: dict[str, Any]) -> None:
        names = sorted({*before, *self._settings})
        changed = [name for name in names if before.get(name) != self._settings.get(name)]
        if changed:
            said = ", ".join(
                f"{name} ({_short(before.get(name))}, now {_short(self._settings.get(name))})"
                for name in changed
            )
            raise ConfigError(
                f"{self.out} was begun with other settings: {said}. Going on would mix the two: take the old "
                f"settings back, name another file with --out, or delete {self.out.name}, "
                f"{self.partial.name} and {self.notes.name}"
            )

    def add(self, rows: Sequence[Row]) -> None:
        """Stores a piece's rows, to the disk. Ends a command that was asked to end."""
        processes.on_main(lambda: self._add(rows))
        interrupts.unit_done()

    def _add(self, rows: Sequence[Row]) -> None:
        if not _has_rows(self.partial):
            write_json(self.notes, self._settings)
        with self.partial.open("ab") as file:
            if file.tell() != self._size:
                raise DataError(
                    f"{self.partial} has {file.tell():,} bytes where {self._size:,} were written: another "
                    "process writes to it too, so rows would stand there twice; end one of the two"
                )
            file.write("".join(map(json_line, rows)).encode())
            file.flush()
            os.fsync(file.fileno())
            self._size = file.tell()

    def finish(self) -> None:
        """Puts the rows into OUT, whole or not at all."""
        processes.on_main(self._finish)

    def _finish(self) -> None:
        if self.out.exists():
            return
        if is_parquet(self.out):
            write_atomically(self.out, lambda place: _fill_parquet(place, self.partial))
            self.partial.unlink()
        else:
            os.replace(self.partial, self.out)


def settings_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.settings.json")


def write_rows(out: Path, rows: Sequence[Row]) -> None:
    """All rows at once, in the form that the file's ending says."""
    check_ending(out)
    if is_parquet(out):
        write_atomically(out, lambda place: _write_parquet(place, rows))
    else:
        write_text(out, "".join(map(json_line, rows)))


def check_ending(out: Path) -> None:
    """Raises ConfigError for a file that our own reader would take for something else."""
    if out.suffix.lower() not in (".jsonl", ".parquet"):
        raise ConfigError(
            f"--out {str(out)!r} must end in .jsonl (JSON Lines) or .parquet, as readers tell by that what a "
            "file holds"
        )


def is_parquet(out: Path) -> bool:
    return out.suffix.lower() == ".parquet"


def _has_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _whole_lines(path: Path, ends: set[int]) -> tuple[int, int]:
    """How many rows of whole pieces the file holds, and their bytes; what follows them is cut off."""
    if not path.exists():
        return 0, 0
    kept = size = position = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            position += len(line)
            if number in ends:
                kept, size = number, position
        file.truncate(size)
    return kept, size


def _fill_parquet(place: Path, rows: Path) -> None:
    with rows.open(encoding="utf-8") as file:
        _write_parquet(place, (json.loads(line) for line in file))


def _write_parquet(place: Path, rows: Any) -> None:
    """Written in row groups; the first row names the columns, which all rows have."""
    todo = iter(rows)
    first = list(islice(todo, _ROWS_AT_ONCE))
    if not first:
        raise DataError(f"there are no rows to write to {place.name}; write JSON Lines, or look at the input")
    schema = pa.schema([(name, _type(name, first[0][name])) for name in first[0]])
    with pq.ParquetWriter(place, schema) as writer:
        for group in _groups(first, todo):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _groups(first: list[Row], todo: Iterator[Row]) -> Iterator[list[Row]]:
    while first:
        yield first
        first = list(islice(todo, _ROWS_AT_ONCE))


def _type(name: str, value: Any) -> pa.DataType:
    if name in _TEXTS:
        return _MESSAGES if isinstance(value, list) else pa.string()
    return _TYPES.get(name, pa.string())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

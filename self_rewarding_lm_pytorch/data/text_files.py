"""Rows of JSON, JSON Lines, CSV and plain text files, read line by line, with the place of what is wrong."""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from self_rewarding_lm_pytorch.errors import DataError

READ = (".jsonl", ".json", ".csv", ".parquet", ".txt")
PACKED = (".gz", ".bz2", ".xz")
"""Behind one of `READ` that is text: unpacked while it is read."""
_NOT_READ = (".zst", ".zip", ".tar", ".tgz", ".xlsx", ".xls", ".pkl", ".pickle", ".pt", ".npy")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Excel begins its files with one


def ending_of(path: Path | str) -> str:
    """What a file is by its name, `.jsonl` of `a.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    is_packed = len(suffixes) > 1 and suffixes[-1] in PACKED
    return suffixes[-2] if is_packed else (suffixes or [""])[-1]


def text_file_rows(path: Path) -> Iterator[Any]:
    """By the file's ending; what is none of the others is JSON Lines. Raises DataError with the line.

    A .json list is read whole, all others line by line.
    """
    ending = ending_of(path)
    if ending in _NOT_READ or ending == ".parquet":  # which is packed inside
        raise DataError(
            f"{path} is a {path.suffix} file, which is not read: unpack or export it, and give one of "
            f"{', '.join(READ)}, the text ones also as {', '.join(PACKED)}"
        )
    try:
        if ending == ".json":
            yield from _json_list(path)
        elif ending == ".csv":
            yield from _csv_rows(path)
        elif ending == ".txt":
            yield from (line.rstrip("\r\n") for _, line in _lines(path) if line.strip())
        else:
            yield from (_parsed(line.rstrip("\r\n"), path, n) for n, line in _lines(path) if line.strip())
    except OSError as error:
        raise unreadable(path, error) from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked. Raises DataError where a packed file is none, or is cut off."""
    import bz2
    import gzip
    import lzma

    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    ending = path.suffix.lower()
    if ending not in openers:
        with path.open("rb") as file:
            yield file
        return
    try:
        with openers[ending](path, "rb") as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _broken(path, ending, error) from error
    except OSError as error:  # bz2's own have no number
        raise error if error.errno is not None else _broken(path, ending, error) from error


def _broken(path: Path, ending: str, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be unpacked as {ending}: {error}. It may have been cut off, or be another kind of "
        "file: copy or pack it again"
    )


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that the system does not let us read."""
    return DataError(
        f"{path} cannot be read: {error.strerror or error}; look at its permissions and its disk"
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line with its number, from 1, and its end."""
    begins = 0
    with _opened(path) as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                place = begins + len(raw) - len(line) + error.start
                raise DataError(
                    f"{path} is not UTF-8 text at byte {place}; save it as UTF-8. Line {number} holds "
                    f"{line[max(0, error.start - 10) : error.end + 10]!r}"
                ) from error
            if "\0" in text:
                raise DataError(
                    f"{path}, line {number}, column {text.index(chr(0)) + 1}: a NUL byte, as files hold that "
                    "were cut off while being written, or that are UTF-16; write it again, as UTF-8"
                )
            yield number, text
            begins += len(raw)


def _json_list(path: Path) -> list[Any]:
    items = _parsed("".join(line for _, line in _lines(path)), path, 1)
    if not isinstance(items, list):
        raise DataError(
            f"{path} holds one {type(items).__name__}; expected a JSON list of items (one item in each line "
            "is a .jsonl file)"
        )
    return items


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)  # of a cell; Python's own is 128 KiB, and holds for the whole process
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    try:
        header = next(reader, [])
        _check_header(header, path)
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} cells, but the header names {len(header)} "
                    f"({', '.join(header):.80}); put texts that hold commas into double quotes. The first "
                    f"cell is {row[0][:60]!r}"
                )
            if row:
                yield dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not CSV ({error}); a text in double quotes needs both of them, "
            "and each of its own written twice"
        ) from error


def _check_header(header: list[str], path: Path) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path} has two columns called {twice[0]!r}, of which only one would be read; rename one"
        )
    if len(header) == 1 and (found := next((mark for mark in ";\t|" if mark in header[0]), "")):
        raise DataError(
            f"{path} has one column, {header[0][:80]!r}: its cells are kept apart by {found!r}; save it with "
            "commas"
        )


class _TwiceError(ValueError):
    """A key of an object is given twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return made


def _parsed(text: str, path: Path, line: int) -> Any:
    where = str(path) if "\n" in text else f"{path}, line {line}"
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        wrong = text.split("\n")[error.lineno - 1]
        start = max(0, min(error.colno - 40, len(wrong) - 60))
        raise DataError(
            f"{path}, line {line + error.lineno - 1}: not JSON ({error.msg} at column {error.colno}): "
            f"{wrong[start : start + 60]!r}; mend that line or take it out"
        ) from error
    except _TwiceError as error:
        raise DataError(
            f"{where}: the key {str(error)!r} is given twice in one item, and only one of them "
            f"could count; take one out of {text[:60]!r}"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, a thousand brackets
        raise DataError(
            f"{where}: not read as JSON ({error!s:.100}): {text[:60]!r}; mend that line or take it out"
        ) from error

"""Rows of JSON, JSON Lines, CSV, TSV and plain text files, one at a time, with the place of what is wrong."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.json_values import json_file, json_value
from self_rewarding_lm_pytorch.data.lines import PACKED, lines, unreadable
from self_rewarding_lm_pytorch.errors import DataError

READ = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_NOT_READ = (".zst", ".zip", ".tar", ".tgz", ".xlsx", ".xls", ".pkl", ".pickle", ".pt", ".npy")

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Of a table's cells, by its ending."""
_SEPARATOR_NAMES = {",": "commas", "\t": "tabs"}
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value|weight)["']\s*:""")


def ending_of(path: Path | str) -> str:
    """What a file is by its name, `.jsonl` of `a.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    is_packed = len(suffixes) > 1 and suffixes[-1] in PACKED
    return suffixes[-2] if is_packed else (suffixes or [""])[-1]


def text_file_rows(path: Path) -> Iterator[Any]:
    """By the file's ending; what is none of the others is JSON Lines. Raises DataError with the line."""
    ending = ending_of(path)
    if ending in _NOT_READ or ending == ".parquet":  # which is packed inside
        raise DataError(
            f"{path} is a {path.suffix} file, which is not read: unpack or export it, and give one of "
            f"{', '.join(READ)}, the text ones also as {', '.join(PACKED)}"
        )
    try:
        if ending == ".json":
            yield from json_file(path)
        elif ending in _SEPARATORS:
            yield from _table_rows(path, _SEPARATORS[ending])
        elif ending == ".txt":
            yield from (line.rstrip("\r\n") for _, line in lines(path) if line.strip())
        else:
            yield from (json_value(line.rstrip("\r\n"), path, n) for n, line in lines(path) if line.strip())
    except OSError as error:
        raise unreadable(path, error) from error


def _table_rows(path: Path, separator: str) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)  # of a cell; Python's own is 128 KiB, and holds for the whole process
    reader = csv.reader((line for _, line in lines(path)), strict=True, delimiter=separator)
    try:
        header = next(reader, [])
        _check_header(header, path, separator)
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} cells, but the header names {len(header)} "
                    f"({', '.join(header):.80}); put texts that hold {_SEPARATOR_NAMES[separator]} into "
                    f"double quotes. The first cell is {row[0][:60]!r}"
                )
            if row:
                yield dict(zip(header, map(_cell, row), strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not {ending_of(path)[1:].upper()} ({error}); a text in double "
            "quotes needs both of them, and each of its own written twice"
        ) from error


def _cell(text: str) -> Any:
    """A cell's text; or the messages that it holds, written as JSON or as Python writes a list."""
    if _MESSAGES.match(text) is None:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(part, dict) for part in found):
            return found
    return text


def _check_header(header: list[str], path: Path, separator: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path} has two columns called {twice[0]!r}, of which only one would be read; rename one"
        )
    others = [mark for mark in ";\t|," if mark != separator]
    if len(header) == 1 and (found := next((mark for mark in others if mark in header[0]), "")):
        raise DataError(
            f"{path} has one column, {header[0][:80]!r}: its cells are kept apart by {found!r}; save it with "
            f"{_SEPARATOR_NAMES[separator]}"
        )

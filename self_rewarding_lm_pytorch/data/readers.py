"""What people bring, read into rows: JSON Lines, JSON, CSV, Parquet, plain text, or any sequence."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from self_rewarding_lm_pytorch.errors import DataError

Source = Any
"""A path (or list of paths), or anything with `len` and integer indexing, or an iterable."""

_RESPONSE_NAMES = ("response", "completion", "output", "answer")
_PROMPT_NAMES = ("prompt", "instruction", "question")


def read_rows(source: Source, *, base: Path | None = None) -> list[Any]:
    """Every item of the source, in order, each read once. Several files are joined.

    base: the folder that relative paths start from (the plan's).
    """
    if isinstance(source, str | Path):
        return _read_file(_resolved(Path(source), base))
    if is_in_files(source):
        return [row for part in source for row in read_rows(part, base=base)]
    if hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, Mapping):
        return [source[i] for i in range(len(source))]
    if isinstance(source, Iterable) and not isinstance(source, Mapping):
        return list(source)
    raise DataError(f"data must be a path, a sequence or an iterable, not {type(source).__name__}")


def is_in_files(source: Source) -> bool:
    """Whether the source names files, which can be read more than once, and not items in memory."""
    if isinstance(source, list | tuple):
        return bool(source) and all(_is_path(part) for part in source)
    return isinstance(source, str | Path)


def file_hashes(source: Source, *, base: Path | None = None) -> dict[str, str]:
    """File -> SHA-256 of its bytes, for every file of the source; none where the data are in memory."""
    if not is_in_files(source):
        return {}
    parts = source if isinstance(source, list | tuple) else [source]
    return {str(part): _digest(_resolved(Path(part), base)) for part in parts}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prompt_text(row: Any, number: int) -> str:
    """A row of a prompt set: text itself, or a mapping with a prompt column."""
    text = row if isinstance(row, str) else _column(row, _PROMPT_NAMES, number)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"prompt {number} is {text!r}; a prompt must be text that is not empty")
    return text


def prompt_and_response(row: Any, number: int) -> tuple[str, str]:
    """A row of a supervised set: a mapping with a prompt and a response."""
    prompt, response = _column(row, _PROMPT_NAMES, number), _column(row, _RESPONSE_NAMES, number)
    if not isinstance(prompt, str) or not isinstance(response, str) or not response:
        raise DataError(
            f"item {number} has prompt {prompt!r:.60} and response {response!r:.60}; both must be text, "
            "and an empty response would train on nothing"
        )
    return prompt, response


def prompt_chosen_rejected(row: Any, number: int) -> tuple[str, str, str]:
    """A row of a preference set."""
    found = [_column(row, names, number) for names in (_PROMPT_NAMES, ("chosen",), ("rejected",))]
    if not all(isinstance(text, str) for text in found) or not found[1] or not found[2]:
        raise DataError(f"pair {number} must hold prompt, chosen and rejected as text; got {row!r:.120}")
    return found[0], found[1], found[2]


def _column(row: Any, names: tuple[str, ...], number: int) -> Any:
    if not isinstance(row, Mapping):
        raise DataError(f"item {number} is {type(row).__name__}; expected a mapping with {names[0]!r}")
    for name in names:
        if name in row:
            return row[name]
    raise DataError(
        f"item {number} has the columns {sorted(map(str, row))}, none of them {' or '.join(names)}; "
        "rename the column"
    )


def _is_path(part: Any) -> bool:
    return isinstance(part, Path) or (
        isinstance(part, str) and Path(part).suffix in (".jsonl", ".json", ".csv", ".parquet", ".txt")
    )


def _resolved(path: Path, base: Path | None) -> Path:
    beside = base / path if base is not None else path
    found = beside if beside.exists() else path
    if not found.is_file():
        raise DataError(f"there is no data file {str(path)!r} (looked in {beside.parent.resolve()})")
    return found


def _read_file(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        try:
            rows: list[Any] = pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error
        return _not_empty(rows, path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel begins its files with a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    if path.suffix == ".json":
        items = _parsed(text, path, 1)
        if not isinstance(items, list):
            raise DataError(f"{path} holds one {type(items).__name__}; expected a JSON list of items")
        return _not_empty(items, path)
    if path.suffix == ".csv":
        return _not_empty(list(csv.DictReader(io.StringIO(text, newline=""))), path)
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if path.suffix == ".txt":
        return _not_empty([line for _, line in lines], path)
    return _not_empty([_parsed(line, path, n) for n, line in lines], path)


def _parsed(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        wrong = text.split("\n")[error.lineno - 1]
        raise DataError(
            f"{path}, line {line + error.lineno - 1}: not JSON ({error.msg} at column {error.colno}): "
            f"{wrong[:60]!r}"
        ) from error


def _not_empty(rows: list[Any], path: Path) -> list[Any]:
    if not rows:
        raise DataError(f"{path} holds no items, so there is nothing to work on")
    return rows

"""Markdown in which whatever a plan or a file name holds is text and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

_MARKS = {ord(mark): f"&#{ord(mark)};" for mark in "&<>\"'`*_[]()|\\#!~$"}


def plain(value: Any) -> str:
    """One line that shows as it is: entities in the place of everything that markdown or HTML would read."""
    text = f"{value:,.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.translate(_MARKS).split())


def cell(text: str) -> str:
    """The same with its lines, for a cell of a table."""
    return "<br>".join(text.translate(_MARKS).splitlines())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Values are escaped, and what is absent shows as a dash."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [["-" if value is None else plain(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: Any) -> str:
    """A value as YAML in a block that nothing in it can end."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"


def public(value: Any) -> Any:
    """The value without the folders of absolute paths: a card may be published, and they name people."""
    if isinstance(value, dict):
        return {public(key): public(part) for key, part in value.items()}
    if isinstance(value, list):
        return [public(part) for part in value]
    if isinstance(value, str) and "\n" not in value:
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute() and kind(value).name:
                return f".../{kind(value).name}"
    return str(value) if isinstance(value, Path) else value

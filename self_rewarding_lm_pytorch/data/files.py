"""Files that appear whole or not at all: write, fsync, rename.

On several processes the main one writes, and none goes on before it has; whether a file is there is what the
main process sees, so that all of them take the same way.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch import processes


def is_there(path: Path) -> bool:
    """Whether the main process sees the file or folder."""
    return processes.agreed(path.exists())


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary file beside `path`, then moves it into place."""
    processes.on_main(lambda: _write_file(path, write))


def _write_file(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: _fill(temporary, text))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def json_line(row: dict[str, Any]) -> str:
    """One line for every reader: some also break lines at these three, which JSON leaves as they are."""
    text = json.dumps(row, ensure_ascii=False)
    for char in "\x85\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text + "\n"


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """The same for a folder; an older one of that name is replaced."""
    processes.on_main(lambda: _write_folder(path, write))


def _write_folder(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    write(temporary)
    for file in sorted(temporary.rglob("*")):
        _sync(file)
    _sync(temporary)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)
    _sync(path.parent)


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Where the check before a run keeps the items that it makes of the data, until their stage takes them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.files import is_there


@dataclass(frozen=True)
class CheckedItems:
    """Items of stages, below a folder that is gone when the run ends: a refused plan leaves nothing."""

    folder: Path
    begun: Mapping[str, Path]  # stage -> its folder, of those whose items may be there already

    @staticmethod
    @contextmanager
    def place(run: Path) -> Iterator[Path]:
        """The folder for them, empty: what an earlier check left may be of other data."""
        folder = run / ".checked.tmp"
        _remove(folder)
        try:
            yield folder
        finally:
            _remove(folder)

    def keep(self, stage: str, name: str, write: Callable[[Path], None]) -> None:
        """Lets `write` make the file, unless the stage has its own."""
        if stage not in self.begun or not is_there(items_file(self.begun[stage], name)):
            write(self._file(stage, name))

    def take(self, stage: str, name: str, path: Path) -> bool:
        """Moves the file to `path`; False where there is none."""
        kept = self._file(stage, name)
        if not is_there(kept):
            return False
        processes.on_main(lambda: _move(kept, path))
        return True

    def _file(self, stage: str, name: str) -> Path:
        return items_file(self.folder / stage, name)


def items_file(stage_folder: Path, name: str) -> Path:
    """Where a stage keeps items."""
    return stage_folder / "items" / f"{name}.arrow"


def _move(kept: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(kept, path)


def _remove(folder: Path) -> None:
    if processes.is_main():
        shutil.rmtree(folder, ignore_errors=True)

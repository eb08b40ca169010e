"""What a run folder holds that nothing needs any more: found, and removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.run_folder.faults import unfinished

_STATE, _CHECKPOINT = "state", "checkpoint"  # in a stage's folder


@dataclass(frozen=True)
class Removable:
    """A file or folder that can go."""

    path: Path
    what: str
    stage: int = 0  # its number, from 1, where it is a stage's checkpoint

    @property
    def num_bytes(self) -> int:
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


def leftovers(run: Path, manifest: Mapping[str, Any]) -> list[Removable]:
    """Training states of stages that are trained, and what was being written when a run was cut off.

    manifest: the run's. Whoever removes them has to hold the run's lock.
    """
    finished = [number for number, stage in _numbered(manifest) if stage["state"] in ("trained", "done")]
    states = [_stage_folder(run, manifest, number) / _STATE for number in finished]
    found = [Removable(path, "training state of a finished stage") for path in states if path.is_dir()]
    inside = [path for path in unfinished(run) if not any(path.is_relative_to(state) for state in states)]
    return found + [Removable(path, "unfinished file or folder") for path in inside]


def old_checkpoints(
    run: Path, manifest: Mapping[str, Any], keep_last: int, needed: Collection[str]
) -> list[Removable]:
    """Checkpoints of finished stages but for the last `keep_last` (at least 1), steps' checkpoints included.

    needed: names of stages whose models stages to come name. What an unfinished stage starts from stays.
    """
    numbered = list(_numbered(manifest))
    finished = [number for number, stage in numbered if stage["state"] == "done"]
    kept = {*finished[-keep_last:], *(number - 1 for number, stage in numbered if stage["state"] != "done")}
    return [
        Removable(path, "old checkpoint", number)
        for number in finished
        if number not in kept and manifest["stages"][number - 1]["name"] not in needed
        for path in _checkpoints(_stage_folder(run, manifest, number))
    ]


def named_in_paths(stages: Sequence[Any], manifest: Mapping[str, Any]) -> set[str]:
    """Stages whose folders these parts of a resolved plan name in a path, as a judge's model may."""
    folders = {f"{number:02d}-{stage['name']}": stage["name"] for number, stage in _numbered(manifest)}
    texts = [text for part in stages for text in _texts(part)]
    return {name for folder, name in folders.items() if any(folder in Path(text).parts for text in texts)}


def remove(found: Removable) -> None:
    """Under another name first, so that nothing half-removed stands under its own. Raises OSError."""
    temporary = found.path
    if not (found.path.name.startswith(".") and found.path.name.endswith(".tmp")):
        temporary = found.path.with_name(f".{found.path.name}.tmp")
        if temporary.exists():
            shutil.rmtree(temporary)
        os.replace(found.path, temporary)
    if temporary.is_dir():
        shutil.rmtree(temporary)
    else:  # or gone with the folder it was in
        temporary.unlink(missing_ok=True)


def _checkpoints(stage: Path) -> list[Path]:
    places = [stage / _CHECKPOINT, *sorted(stage.glob("*steps*"))]
    return [path for path in places if path.is_dir()]


def _stage_folder(run: Path, manifest: Mapping[str, Any], number: int) -> Path:
    return run / "stages" / f"{number:02d}-{manifest['stages'][number - 1]['name']}"


def _numbered(manifest: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((number, stage) for number, stage in enumerate(manifest["stages"], 1))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str) and "\0" not in value:
        yield value

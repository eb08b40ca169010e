"""What the files of a checkpoint were when they were written, and whether they still are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.errors import CheckpointError

Notes = dict[str, dict[str, Any]]
"""File, relative to its folder -> its sha256, its size in bytes, and its mtime_ns when it was last hashed."""

_READ_ANYWAY = 64 * 2**20  # bytes up to which a file is hashed even where its size and time are as they were


def is_model_folder(path: Path) -> bool:
    """Whether a model of transformers or an adapter lies there."""
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def notes_of(folder: Path, known: Mapping[str, Any] | None = None, pattern: str = "**/*") -> Notes:
    """What the folder's files are now. known: earlier notes; large files that look as there are not read."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    return {
        str(path.relative_to(folder)): _note(path, (known or {}).get(str(path.relative_to(folder))))
        for path in files
    }


def without_times(notes: Mapping[str, Any]) -> dict[str, str]:
    """The hashes alone, by file."""
    return {name: note["sha256"] for name, note in notes.items()}


def check_files(folder: Path, notes: Notes, remedy: str) -> Notes:
    """The notes as of now; CheckpointError where a file is missing, truncated, altered or not the run's.

    remedy: what to do, said at the error's end. A file above 64 MiB whose size and time are those of its
    note is not read again.
    """
    for name, note in notes.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, which was there when {folder} was written. {remedy}")
        size = path.stat().st_size
        if size != note["size"]:
            raise CheckpointError(
                f"{path} has {size:,} bytes, but {note['size']:,} were written: it was truncated or altered, "
                f"and going on from it would build on weights that nobody trained. {remedy}"
            )
    found = {name: _note(folder / name, note) for name, note in notes.items()}
    for name, note in found.items():
        if note["sha256"] != notes[name]["sha256"]:
            raise CheckpointError(
                f"{folder / name} was altered: its sha256 is {note['sha256']}, but {notes[name]['sha256']} "
                f"was written, and going on from it would build on weights that nobody trained. {remedy}"
            )
    for path in sorted(folder.rglob("*.safetensors")):
        if str(path.relative_to(folder)) not in notes:
            raise CheckpointError(f"{path} was not written by this run; take it out of {folder}")
    return found


def check_in_its_run(folder: Path) -> None:
    """Checks a checkpoint against the manifest of the run it lies in; nothing where it lies in none."""
    folder = folder.resolve()
    run = folder.parent if folder.name == "initial" else folder.parent.parent.parent
    try:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        if folder.name == "initial":
            notes = manifest.get("initial", {})
        else:
            number = int(folder.parent.name.partition("-")[0])
            notes = manifest["stages"][number - 1].get("files", {}) if folder.name == "checkpoint" else {}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return  # a folder of its own, or a run from before files were noted
    if notes:
        check_files(folder, notes, remedy(folder))


def remedy(folder: Path) -> str:
    """What helps where a checkpoint of a run is not what was written."""
    if folder.name == "initial":
        return (
            "Put the file back from a copy; or remove the folder and run again with a model that has the "
            "weights of the run's beginning; or begin afresh (--fresh, fresh=True)."
        )
    return (
        f"Put the file back from a copy; or remove the folder {folder} and run the same command: the stage "
        "is trained again where it is needed, on what it had stored; or begin afresh (--fresh, fresh=True)."
    )


def _note(path: Path, known: Mapping[str, Any] | None) -> dict[str, Any]:
    stat = path.stat()
    looks_known = (
        known is not None and known["size"] == stat.st_size and known.get("mtime_ns") == stat.st_mtime_ns
    )
    if known is not None and looks_known and stat.st_size > _READ_ANYWAY:
        return dict(known)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}

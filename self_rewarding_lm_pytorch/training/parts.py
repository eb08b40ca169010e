"""What the parts of a training hold, as files: tensors as safetensors, the rest as JSON, nothing pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file
from torch import Tensor

from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.models.weights import read_weights

_HEAD, _VALUES = "state.json", "values.json"


@dataclass(frozen=True)
class Part:
    """What one part of a training holds."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Any = None  # as JSON has it


class Resumable(Protocol):
    """A part of a training that can be gone on with."""

    def state(self) -> Part:
        """What it holds now; tensors may be the live ones. Raises NotStorable where that is no use."""
        ...

    def resume(self, part: Part) -> None:
        """Takes what `state` gave. Raises CheckpointError where that does not fit."""
        ...


class NotStorable(SelfRewardingError):
    """A part of a training whose state cannot be written; the message names it."""


def write_parts(folder: Path, head: Any, parts: Mapping[str, Part]) -> None:
    """Writes the parts into an existing folder, and last a file with the SHA-256 of each other file.

    head: JSON, for the reader to see before any tensor is read.
    """
    for name, part in parts.items():
        if part.tensors:
            save_file(_plain(part.tensors), folder / f"{name}.safetensors")
    values = {"head": head, "parts": {name: part.values for name, part in parts.items()}}
    (folder / _VALUES).write_text(json.dumps(values), encoding="utf-8")
    digests = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
    (folder / _HEAD).write_text(json.dumps({"schema": 1, "sha256": digests}, indent=2), encoding="utf-8")


def fault_of(folder: Path) -> str:
    """What is wrong with a folder that `write_parts` filled; empty where every file is as it was written."""
    try:
        digests = json.loads((folder / _HEAD).read_text(encoding="utf-8"))["sha256"]
        if _VALUES not in digests:
            return f"{_HEAD} does not name {_VALUES}"
        changed = [name for name, digest in digests.items() if file_digest(folder / name) != digest]
        read_head(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error!r:.200})"
    return f"{', '.join(changed)} is not as it was written" if changed else ""


def read_head(folder: Path) -> Any:
    return json.loads((folder / _VALUES).read_text(encoding="utf-8"))["head"]


def read_parts(folder: Path) -> dict[str, Part]:
    """The parts, their tensors on the CPU."""
    values = json.loads((folder / _VALUES).read_text(encoding="utf-8"))["parts"]
    files = {name: folder / f"{name}.safetensors" for name in values}
    return {
        name: Part(read_weights(files[name]) if files[name].exists() else {}, value)
        for name, value in values.items()
    }


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two in the same memory, which safetensors refuses."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return found

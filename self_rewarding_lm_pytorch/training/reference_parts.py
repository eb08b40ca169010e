"""A stored reference's log-probs as files, so that a run cut off among them goes on behind the last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.files import write_atomically
from self_rewarding_lm_pytorch.training import batching


class ReferenceParts:
    """reference-00000.safetensors and so on in a folder: PART pairs each, the last one fewer.

    name: in the place of "reference", where a folder holds several. num_pairs: in all. of: what decides
    them beside the pairs; those of another reference are not used.
    """

    def __init__(
        self,
        folder: Path,
        num_pairs: int,
        warn: Callable[[str], None],
        name: str = "reference",
        of: str = "",
    ) -> None:
        self._folder = folder
        self._num_pairs = num_pairs
        self._warn = warn
        self._name = name
        self._of = of

    def read(self, number: int) -> Tensor | None:
        """Part `number` (from 0): float32 (2, pairs), chosen and rejected; None where it is not there."""
        return processes.on_main(lambda: self._read(number))

    def read_all(self) -> Tensor | None:
        """All of them in a row, (2, num_pairs), or None where one is missing."""
        parts: list[Tensor] = []
        for number in range(-(-self._num_pairs // batching.PART)):
            part = self.read(number)
            if part is None:
                return None
            parts.append(part)
        return torch.cat(parts, dim=1) if parts else None

    def write(self, number: int, sides: Tensor) -> None:
        chosen, rejected = (side.contiguous().clone() for side in sides)
        save = partial(
            save_file,
            {"chosen": chosen, "rejected": rejected},
            metadata={"sha256": self._digest(chosen, rejected)},
        )
        write_atomically(self._path(number), lambda path: save(filename=path))

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}-{number:05d}.safetensors"

    def _read(self, number: int) -> Tensor | None:
        path = self._path(number)
        if not path.exists():
            return None
        size = min(batching.PART, self._num_pairs - number * batching.PART)
        fault = "they are not as they were written, or of other pairs or another reference"
        try:
            with safe_open(path, framework="pt") as file:
                sides = torch.stack([file.get_tensor(side) for side in ("chosen", "rejected")])
                if sides.shape == (2, size) and (file.metadata() or {}).get("sha256") == self._digest(*sides):
                    return sides
        except (SafetensorError, OSError, RuntimeError) as error:
            fault = f"they cannot be read ({error})"
        self._warn(f"the reference log-probs in {path} are not used: {fault}; they are computed again")
        return None

    def _digest(self, chosen: Tensor, rejected: Tensor) -> str:
        sides = chosen.numpy().tobytes() + rejected.numpy().tobytes()
        return hashlib.sha256(self._of.encode() + sides).hexdigest()

"""A record batch of training items, as views of the file it lies in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from self_rewarding_lm_pytorch.records import Example

SIDES: dict[str, tuple[str, ...]] = {"examples": ("",), "pairs": ("chosen_", "rejected_")}
"""What a file holds -> how the names of each sequence's columns begin."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """The sequences of a batch, end to end, as they lie in the file."""

    offsets: np.ndarray  # int32 (rows + 1,)
    ids: np.ndarray  # int32 (tokens,)
    bits: np.ndarray  # uint8, eight tokens' masks in each, the lowest bit first

    @classmethod
    def of(cls, ids: Any, is_target: Any) -> Side:
        offsets = np.frombuffer(ids.buffers()[1], np.int32, len(ids) + 1)
        buffers = ids.buffers()[3], is_target.buffers()[3]  # of the values; none where there is no token
        values, bits = (
            np.frombuffer(buffer, kind) if buffer is not None else np.zeros(0, kind)
            for buffer, kind in zip(buffers, (np.int32, np.uint8), strict=True)
        )
        return cls(offsets, values, bits)

    def example(self, row: int) -> Example:
        start, end = int(self.offsets[row]), int(self.offsets[row + 1])
        first = start // 8
        bits = np.unpackbits(self.bits[first : end // 8 + 1], bitorder="little")
        is_target = bits[start - 8 * first : end - 8 * first].astype(np.bool_)
        ids = self.ids[start:end].astype(np.int64)
        return Example(torch.from_numpy(ids), torch.from_numpy(is_target))


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One record batch, as views."""

    batch: Any
    sides: tuple[Side, ...]

    @classmethod
    def of(cls, batch: Any, kind: str) -> Columns:
        return cls(
            batch,
            tuple(Side.of(batch.column(f"{s}ids"), batch.column(f"{s}is_target")) for s in SIDES[kind]),
        )

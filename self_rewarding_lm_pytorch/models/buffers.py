"""Key/value buffers that grow without being copied at each token."""

from __future__ import annotations

import torch
from torch import Tensor


class GrowingBuffer:
    """Rows x heads x positions x size, with room for more positions along dimension -2."""

    def __init__(self, filled: Tensor, capacity: int) -> None:
        self.length = filled.shape[-2]
        room = max(capacity, self.length)
        self._store = filled.new_empty((*filled.shape[:-2], room, filled.shape[-1]))
        self._store[..., : self.length, :] = filled

    @classmethod
    def empty(cls, rows: int, like: Tensor, length: int, room: int) -> GrowingBuffer:
        """Of so many rows, `length` positions to be filled by the caller, and room for more."""
        return cls(like.new_empty((rows, like.shape[1], length, like.shape[3])), length + room)

    def append(self, new: Tensor) -> Tensor:
        """Writes behind what is there; returns a view of everything filled."""
        end = self.length + new.shape[-2]
        if end > self._store.shape[-2]:
            self.__init__(self.filled, 2 * end)  # type: ignore[misc]
        self._store[..., self.length : end, :] = new
        self.length = end
        return self.filled

    @property
    def filled(self) -> Tensor:
        return self._store[..., : self.length, :]

    def select(self, rows: Tensor) -> None:
        """Keeps (or repeats) rows; int64 (B',)."""
        kept = self._store.new_empty((len(rows), *self._store.shape[1:]))
        torch.index_select(self.filled, 0, rows, out=kept[..., : self.length, :])
        self._store = kept

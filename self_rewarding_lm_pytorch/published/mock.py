"""A data set for trying things out."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset


class MockDataset(Dataset[Any]):
    """`length` items, each the value given, or made anew by calling it at each access."""

    def __init__(self, length: int, output: Any) -> None:
        self._length = length
        self._output = output

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if not -self._length <= index < self._length:
            raise IndexError(f"item {index} of a data set of {self._length}")
        return self._output() if callable(self._output) else self._output


def create_mock_dataset(length: int, output: Any) -> Dataset[Any]:
    """A data set of `length` items. output: a value, or a function without arguments."""
    return MockDataset(length, output)

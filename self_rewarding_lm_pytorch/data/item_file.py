"""Training items on disk: written once, in order, then read one at a time wherever they lie.

A file is Arrow's IPC file format, in record batches, and is mapped into memory: an item is read from its
own bytes, and only the pages that hold them are loaded. Masks are kept as bits, beside the ids they were
born with.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from self_rewarding_lm_pytorch.data.files import write_atomically
from self_rewarding_lm_pytorch.data.item_columns import SIDES, Columns
from self_rewarding_lm_pytorch.data.lazy import Lazy
from self_rewarding_lm_pytorch.errors import CheckpointError, DataError
from self_rewarding_lm_pytorch.records import Example, PairExample

Item = TypeVar("Item", bound=Example | PairExample)

BATCH_ROWS = 4096
BATCH_TOKENS = 2**22
"""A record batch ends with whichever is reached first; so much is held while a file is written."""

_LARGEST_ID = 2**31 - 1
_DIGEST = b"sha256"  # beside each batch


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Writes examples as they come; `path` appears whole, once the last one is written."""
    write_atomically(path, lambda temporary: _write(temporary, "examples", examples, lambda x: (x,)))


def write_pairs(path: Path, pairs: Iterable[PairExample]) -> None:
    """The same for pairs. Their indices are not kept: read back, a pair's index is its place in the file."""
    write_atomically(
        path, lambda temporary: _write(temporary, "pairs", pairs, lambda x: (x.chosen, x.rejected))
    )


def examples_in(path: Path) -> ItemFile[Example]:
    """What `write_examples` wrote. Raises CheckpointError where the file is cut off or something else."""
    return ItemFile(path, "examples", _example)


def pairs_in(path: Path) -> ItemFile[PairExample]:
    """What `write_pairs` wrote. Raises CheckpointError as `examples_in` does."""
    return ItemFile(path, "pairs", _pair)


class ItemFile(Lazy[Item]):
    """A file's items. Each access makes the item anew; none is kept, so memory does not grow with use."""

    def __init__(self, path: Path, kind: str, make: Callable[[Columns, int, int], Item]) -> None:
        self.path = path
        self._kind = kind
        self._make: Callable[[Columns, int, int], Item] = make
        self._reader = _opened(path, kind)
        self._ends = list(accumulate(_sizes(path)))  # of the batches
        self._columns: dict[int, Columns] = {}  # views of the mapped file, not its contents

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def at(self, place: int) -> Item:
        number = bisect_right(self._ends, place)
        if number not in self._columns:
            self._columns[number] = Columns.of(self._reader.get_batch(number), self._kind)
        row = place - (self._ends[number - 1] if number else 0)
        return self._make(self._columns[number], row, place)


def _example(columns: Columns, row: int, place: int) -> Example:
    return columns.sides[0].example(row)


def _pair(columns: Columns, row: int, place: int) -> PairExample:
    chosen, rejected = (side.example(row) for side in columns.sides)
    margin, certainty = (columns.batch.column(name)[row].as_py() for name in ("margin", "certainty"))
    return PairExample(place, chosen, rejected, margin, certainty)


def _schema(kind: str) -> Any:
    sequences = [
        field
        for side in SIDES[kind]
        for field in ((f"{side}ids", pa.list_(pa.int32())), (f"{side}is_target", pa.list_(pa.bool_())))
    ]
    labels = [("margin", pa.float64()), ("certainty", pa.float64())] if kind == "pairs" else []
    return pa.schema([*sequences, *labels], metadata={"items": kind})


def _write(path: Path, kind: str, items: Iterable[Item], sides: Callable[[Any], tuple[Example, ...]]) -> None:
    schema = _schema(kind)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in _batches(items):
            made = pa.record_batch(_arrays(kind, batch, sides), schema=schema)
            writer.write_batch(made, custom_metadata={_DIGEST: _digest(made)})


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    tokens = 0
    for item in items:
        batch.append(item)
        tokens += len(item)
        if len(batch) == BATCH_ROWS or tokens >= BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch


def _arrays(kind: str, items: list[Any], sides: Callable[[Any], tuple[Example, ...]]) -> list[Any]:
    arrays = []
    for sequences in zip(*map(sides, items), strict=True):
        lengths = [len(sequence) for sequence in sequences]
        offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
        ids = torch.cat([sequence.ids for sequence in sequences])
        if len(ids) and int(ids.max()) > _LARGEST_ID:
            raise DataError(
                f"a training item holds the token id {int(ids.max())}, and ids over {_LARGEST_ID} cannot be "
                "kept; no vocabulary is so large, so look at what made the ids"
            )
        masks = torch.cat([sequence.is_target for sequence in sequences])
        for values, value_type in ((ids, pa.int32()), (masks, pa.bool_())):
            arrays.append(pa.ListArray.from_arrays(offsets, pa.array(values.cpu().numpy(), value_type)))
    if kind == "pairs":
        arrays += [
            pa.array([getattr(x, name) for x in items], pa.float64()) for name in ("margin", "certainty")
        ]
    return arrays


def _opened(path: Path, kind: str) -> Any:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    if reader.schema != _schema(kind):
        raise _unreadable(path, f"it does not hold {kind}, but {', '.join(reader.schema.names)}")
    return reader


def _sizes(path: Path) -> list[int]:
    """Rows of each batch, which is seen to be as it was written. Not mapped: one is held at a time."""
    sizes: list[int] = []
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                batch, notes = reader.get_batch_with_custom_metadata(number)
                batch.validate(full=True)
                expected = (notes or {}).get(_DIGEST)  # None: from before there were digests
                if expected is not None and expected.decode() != _digest(batch):
                    raise _unreadable(path, f"its items from {sum(sizes):,} on are not as they were written")
                sizes.append(batch.num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return sizes


def _digest(batch: Any) -> str:
    """SHA-256 of a batch's values."""
    found = hashlib.sha256()
    for column in batch.columns:
        parts = (column.offsets, column.values) if pa.types.is_list(column.type) else (column,)
        for part in parts:
            found.update(part.to_numpy(zero_copy_only=False).tobytes())
    return found.hexdigest()


def _unreadable(path: Path, error: object) -> CheckpointError:
    return CheckpointError(
        f"the training items in {path} cannot be read, so the stage cannot go on with them: {error}. The "
        "file was cut off, altered, or written by another version; remove it, and the same command makes it "
        "anew from the data or from the stored pairs"
    )

"""A shard's file: its metadata, the hash of its rows, and what is said where it is damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from self_rewarding_lm_pytorch.errors import CheckpointError

ROWS = "rows_sha256"
MADE_FROM = "made_from"
_REMEDY = (
    "Delete this file and run the same command: a stage that is not finished makes it again, equal on the "
    "same machine, and with it what was made from it; or put it back from a copy"
)


def fill_shard(place: Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Writes the table to a file, with checksums of its pages."""
    pq.write_table(table.replace_schema_metadata(dict(metadata)), place, write_page_checksum=True)


def read_shard(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """The rows. Raises CheckpointError where the file is gone, truncated, or its rows were altered."""
    with _in_words(path):
        rows: list[dict[str, Any]] = pq.read_table(
            path, schema=schema, page_checksum_verification=True
        ).to_pylist()
    expected = shard_metadata(path).get(ROWS)  # None: from before there were hashes
    if expected is not None and rows_hash(rows) != expected:
        raise CheckpointError(
            f"{path} was altered: its rows are not those that were written, and what is made from them would "
            f"not be this run's. {_REMEDY}"
        )
    return rows


def shard_metadata(path: Path) -> dict[str, str]:
    """What a shard says of itself. Raises CheckpointError as `read_shard` does."""
    with _in_words(path):
        found = pq.read_schema(path).metadata or {}
        return {name.decode(): value.decode() for name, value in found.items() if name != b"ARROW:schema"}


def shard_notes(path: Path) -> dict[str, Any]:
    """What its writer noted about the shard. Raises CheckpointError as `read_shard` does."""
    return _json(path, "notes")


def made_from(path: Path) -> dict[str, str]:
    """Of each shard that this one was made from, the hash its rows had."""
    return _json(path, MADE_FROM)


def _json(path: Path, name: str) -> dict[str, Any]:
    with _in_words(path):
        found: dict[str, Any] = json.loads(shard_metadata(path).get(name, "{}"))
    return found


def rows_hash(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of rows as Parquet gives them; nothing of what is absent, so new columns change nothing."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(_present(row), sort_keys=True).encode() + b"\n")
    return found.hexdigest()


def _present(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _present(part) for key, part in value.items() if part is not None}
    is_of_parts = isinstance(value, list) and value and isinstance(value[0], Mapping)
    return [_present(part) for part in value] if is_of_parts else value


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is gone, which other shards were made from. {_REMEDY}") from error
    except PermissionError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or altered ({error!s:.200}). {_REMEDY}") from error

"""A stage's append-only Parquet shards. A shard is there whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from self_rewarding_lm_pytorch import interrupts, processes
from self_rewarding_lm_pytorch.data.files import write_atomically
from self_rewarding_lm_pytorch.data.shard_files import (
    MADE_FROM,
    ROWS,
    fill_shard,
    made_from,
    read_shard,
    rows_hash,
    shard_metadata,
    shard_notes,
)
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote

Record = TypeVar("Record", Candidate, Judgment, PreferencePair)

_IDS = pa.list_(pa.int32())
VOTE = pa.struct(
    [
        ("index", pa.int32()),
        ("text", pa.string()),
        ("score", pa.float64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("finish_reason", pa.string()),
        ("probabilities", pa.list_(pa.float64())),
    ]
)
_PLACE = [("prompt_index", pa.int64()), ("visit", pa.int32())]

SCHEMAS: dict[str, pa.Schema] = {
    "candidates": pa.schema(
        [
            *_PLACE,
            ("index", pa.int32()),
            ("ids", _IDS),
            ("text", pa.string()),
            ("finish_reason", pa.string()),
            ("key", pa.int64()),
            ("policy", pa.string()),
        ]
    ),
    "judgments": pa.schema(
        [
            *_PLACE,
            ("candidate_index", pa.int32()),
            ("score", pa.float64()),
            ("votes", pa.list_(VOTE)),
            ("reason", pa.string()),
        ]
    ),
    "pairs": pa.schema(
        [
            *_PLACE,
            ("prompt", pa.string()),
            ("chosen", pa.string()),
            ("rejected", pa.string()),
            ("prompt_ids", _IDS),
            ("chosen_ids", _IDS),
            ("rejected_ids", _IDS),
            ("chosen_index", pa.int32()),
            ("rejected_index", pa.int32()),
            ("chosen_score", pa.float64()),
            ("rejected_score", pa.float64()),
        ]
    ),
}
_KINDS: dict[type, str] = {Candidate: "candidates", Judgment: "judgments", PreferencePair: "pairs"}


_SOURCES: dict[str, tuple[str, ...]] = {
    "candidates": (),
    "judgments": ("candidates",),
    "pairs": ("candidates", "judgments"),
}
"""What a shard's records are made from, where the same store holds it."""


class ShardStore:
    """Shards of candidates, judgments and pairs below a stage's folder.

    A shard knows the hash of its rows and of those it was made from: judgments and pairs count only while
    the candidates they are about are there, unchanged. So a damaged file may be deleted, and is made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: type[Record], shard: int) -> Path:
        return self._file(_KINDS[kind], shard)

    def has(self, kind: type[Record], shard: int) -> bool:
        """Whether the shard is there, with what it was made from; CheckpointError where it is damaged."""
        return processes.on_main(lambda: self._has(_KINDS[kind], shard))

    def write(self, kind: type[Record], shard: int, records: Sequence[Record], notes: dict[str, Any]) -> None:
        """Records and, in the same file, notes (JSON) about the shard. Ends a run that was asked to end."""
        rows = [_row(record) for record in records]
        table = pa.Table.from_pylist(rows, schema=SCHEMAS[_KINDS[kind]])
        metadata = {"notes": json.dumps(notes), ROWS: rows_hash(table.to_pylist())}
        processes.on_main(lambda: self._remove_outdated(_KINDS[kind], shard, metadata[ROWS]))
        sources = processes.on_main(lambda: json.dumps(self._sources(_KINDS[kind], shard)))
        metadata[MADE_FROM] = sources
        write_atomically(self.path(kind, shard), lambda place: fill_shard(place, table, metadata))
        interrupts.unit_done()

    def read(self, kind: type[Record], shard: int) -> list[Record]:
        """Raises CheckpointError where the file is truncated or its rows are not those written."""
        rows = read_shard(self.path(kind, shard), SCHEMAS[_KINDS[kind]])
        return [_record(kind, row) for row in rows]

    def notes(self, kind: type[Record], shard: int) -> dict[str, Any]:
        return shard_notes(self.path(kind, shard))

    def num_shards(self, kind: type[Record]) -> int:
        """Shards in a row from 0."""

        def counted() -> int:
            shard = 0
            while self.path(kind, shard).exists():
                shard += 1
            return shard

        return processes.on_main(counted)

    def read_all(self, kind: type[Record]) -> list[Record]:
        return [r for shard in range(self.num_shards(kind)) for r in self.read(kind, shard)]

    def _file(self, name: str, shard: int) -> Path:
        return self.folder / name / f"{shard:05d}.parquet"

    def _has(self, name: str, shard: int) -> bool:
        path = self._file(name, shard)
        if not path.exists():
            return False
        now = self._sources(name, shard)
        return all(now.get(source) == rows for source, rows in made_from(path).items())

    def _sources(self, name: str, shard: int) -> dict[str, str]:
        """Of each shard that this one is made from, the hash of its rows."""
        paths = {source: self._file(source, shard) for source in _SOURCES[name]}
        found = {source: shard_metadata(path).get(ROWS) for source, path in paths.items() if path.exists()}
        return {source: rows for source, rows in found.items() if rows is not None}

    def _remove_outdated(self, name: str, shard: int, rows: str) -> None:
        """What was made from other rows than this shard is about to have, the last made first."""
        for later in (self._file("pairs", shard), self._file("judgments", shard)):
            if later.exists() and made_from(later).get(name, rows) != rows:
                later.unlink()


def told_once(candidates: Sequence[Candidate], judgments: Sequence[Judgment]) -> list[Judgment]:
    """The judgments, but those of candidates that a recycled visit took up from an earlier one.

    Such a candidate stands in both visits, with the same address of its random numbers.
    """
    seen: set[tuple[int, int, tuple[int, ...], str]] = set()
    again: set[tuple[int, int, int]] = set()
    for candidate in candidates:
        drawn = (candidate.prompt_index, candidate.key, candidate.ids, candidate.text)
        if drawn in seen:
            again.add((candidate.prompt_index, candidate.visit, candidate.index))
        seen.add(drawn)
    return [j for j in judgments if (j.prompt_index, j.visit, j.candidate_index) not in again]


def _row(record: Any) -> dict[str, Any]:
    row = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    if isinstance(record, Judgment):
        row["votes"] = [_row(vote) for vote in record.votes]
    return {k: list(v) if isinstance(v, tuple) else v for k, v in row.items()}


def _record(kind: type[Record], row: dict[str, Any]) -> Record:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    if kind is Judgment:
        fields["votes"] = tuple(_vote(vote) for vote in fields["votes"])
    return kind(**fields)


def _vote(row: dict[str, Any]) -> Vote:
    # Shards from before probabilities were kept have none: pyarrow reads null.
    return Vote(**{**row, "probabilities": tuple(row["probabilities"] or ())})

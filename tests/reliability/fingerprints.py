"""What a finished run came to, as hashes: two runs are identical where all of these are equal."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

Fingerprint = dict[str, str]
_OF_THE_CLOCK = ("time", "tokens_per_second")
_NOT_OF_THE_RESULT = ("report.html", "run.lock")  # the page is the command's alone, and tells the time


def fingerprint(run: Path) -> Fingerprint:
    """sha256 of the weights, of every stored row, of skipped.json, the summary, the metrics and the cards.

    Left out is what tells the time: the summary's *_seconds, and of metrics.jsonl `time` and
    `tokens_per_second`. `files`: the names of all files, so that nothing half-written is left over.
    """
    return {
        "weights": _of_bytes(run, "stages/*/checkpoint/*.safetensors"),
        "rows": _hash([(_name(run, file), _rows(file)) for file in _files(run, "stages/**/*.parquet")]),
        "skipped": _of_bytes(run, "stages/**/skipped.json"),
        "summary": _hash(_without_seconds(json.loads((run / "summary.json").read_text(encoding="utf-8")))),
        "metrics": _hash(_metrics(run / "metrics.jsonl")),
        "cards": _of_bytes(run, "report_cards/*.json"),
        "files": _hash(names(run)),
    }


def names(run: Path) -> list[str]:
    """Of every file below a run's folder that belongs to its result."""
    found = [_name(run, file) for file in _files(run, "**/*")]
    return [name for name in found if name not in _NOT_OF_THE_RESULT]


def differences(one: Fingerprint, other: Fingerprint) -> list[str]:
    return [part for part in one if one[part] != other[part]]


def _files(run: Path, pattern: str) -> list[Path]:
    return [file for file in sorted(run.glob(pattern)) if file.is_file()]


def _name(run: Path, file: Path) -> str:
    return file.relative_to(run).as_posix()


def _of_bytes(run: Path, pattern: str) -> str:
    found = _files(run, pattern)
    return _hash([(_name(run, file), hashlib.sha256(file.read_bytes()).hexdigest()) for file in found])


def _rows(file: Path) -> list[dict[str, Any]]:
    # Without threads: the process that reads this forks afterwards.
    return pq.ParquetFile(file, pre_buffer=False).read(use_threads=False).to_pylist()


def _metrics(file: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in _OF_THE_CLOCK} for line in lines]


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seconds(v) for k, v in value.items() if not k.endswith("_seconds")}
    return [_without_seconds(each) for each in value] if isinstance(value, list) else value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

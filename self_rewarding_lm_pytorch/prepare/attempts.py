"""What was written in each attempt, stored shard after shard, so that an interrupted search goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch import interrupts
from self_rewarding_lm_pytorch.data.files import is_there, write_json, write_text
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.records import FinishReason


@dataclass(frozen=True, slots=True)
class Attempt:
    """One few-shot prompt and what was written after it."""

    number: int
    shots: tuple[str, ...]
    is_short: bool  # the shots were drawn among the shorter ones, to fit the context
    text: str
    finish_reason: FinishReason
    num_tokens: int | None
    seconds: float  # its share of its shard's time


class AttemptStore:
    """A folder with one JSON Lines file for each shard, each written whole.

    made_of: everything that the attempts depend on, as JSON can hold it. A folder made of something else is
    refused with a ConfigError, because its attempts would be passed off as these.
    """

    def __init__(self, folder: Path, made_of: Any) -> None:
        self._folder = folder
        text = json.dumps(made_of, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        path = folder / "made-of.json"
        if is_there(path):
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.get("sha256") != digest:
                raise ConfigError(
                    f"{folder} holds attempts made with other seeds or settings, which cannot be gone on "
                    "with; delete that folder to begin anew, or write elsewhere"
                )
        else:
            write_json(path, {"sha256": digest})

    def read(self, shard: int) -> list[Attempt] | None:
        """A shard's attempts; None where it is not there yet."""
        path = self._path(shard)
        if not is_there(path):
            return None
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [Attempt(**{**row, "shots": tuple(row["shots"])}) for row in rows]

    def write(self, shard: int, attempts: list[Attempt]) -> None:
        lines = (json.dumps(asdict(one), ensure_ascii=False) for one in attempts)
        write_text(self._path(shard), "".join(f"{line}\n" for line in lines))
        interrupts.unit_done()

    def _path(self, shard: int) -> Path:
        return self._folder / f"shard-{shard:05d}.jsonl"

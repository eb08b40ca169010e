"""Stored pairs and judgments as JSON Lines, for people and for other trainers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.files import json_line, write_text
from self_rewarding_lm_pytorch.data.store import ShardStore, told_once
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair

NO_TEXT = "its prompt is known by token ids alone"  # SPIN on ids, or behind a chat template
EMPTY = "a response is empty, which data files cannot have"


@dataclass(frozen=True)
class Exported:
    """A file, and how many pairs are not in it, by reason. Where no row is left, it is not written."""

    path: Path
    rows: int
    left_out: Mapping[str, int] = field(default_factory=dict)


def export_run(run_folder: Path, out: Path) -> list[Exported]:
    """STAGE-pairs.jsonl and STAGE-judgments.jsonl for every stage that has them.

    Pairs have the columns prompt, chosen, rejected (which TRL's DPOTrainer and our `dpo` stage read)
    and, beside them, both scores. Where prompts are conversations, all three are lists of messages.
    """
    stages = sorted(path for path in (run_folder / "stages").glob("*") if path.is_dir())
    if not stages:
        raise DataError(f"{run_folder} holds no stages to export; name the folder a run wrote to")
    written = []
    for stage in stages:
        store = ShardStore(stage)
        left_out: Counter[str] = Counter()
        for name, rows in (("pairs", _pairs(store, left_out)), ("judgments", _judgments(store))):
            lines = [json_line(row) for row in rows]
            if lines:
                write_text(out / f"{stage.name}-{name}.jsonl", "".join(lines))
            own = dict(left_out) if name == "pairs" else {}
            if lines or own:
                written.append(Exported(out / f"{stage.name}-{name}.jsonl", len(lines), own))
    return written


def _pairs(store: ShardStore, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    asked = _conversations(store.folder)
    for pair in store.read_all(PreferencePair):
        if not pair.prompt:
            left_out[NO_TEXT] += 1
        elif not pair.chosen or not pair.rejected:
            left_out[EMPTY] += 1
        else:
            texts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            yield {
                **(texts if asked is None else _as_messages(texts, asked[pair.prompt_index])),
                "chosen_score": pair.chosen_score,
                "rejected_score": pair.rejected_score,
            }


def _conversations(stage: Path) -> list[Any] | None:
    """What the stage asked, texts and conversations; None where all are texts."""
    path = stage / "items" / "prompts.json"
    asked = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return asked if any(isinstance(entry, list) for entry in asked) else None


def _as_messages(texts: dict[str, str], asked: Any) -> dict[str, Any]:
    prompt = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
    answers = {name: [{"role": "assistant", "content": texts[name]}] for name in ("chosen", "rejected")}
    return {"prompt": prompt, **answers}


def _judgments(store: ShardStore) -> Iterable[dict[str, Any]]:
    sampled = store.read_all(Candidate)
    candidates = {(c.prompt_index, c.visit, c.index): c for c in sampled}
    for judgment in told_once(sampled, store.read_all(Judgment)):
        place = (judgment.prompt_index, judgment.visit, judgment.candidate_index)
        yield {
            "prompt_index": judgment.prompt_index,
            "visit": judgment.visit,
            "candidate": judgment.candidate_index,
            "response": candidates[place].text if place in candidates else None,
            "score": judgment.score,
            "votes": [
                {"text": vote.text, "score": vote.score, "status": vote.status} for vote in judgment.votes
            ],
        }

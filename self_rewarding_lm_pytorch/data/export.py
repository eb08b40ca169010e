"""Stored pairs and judgments as JSON Lines, for people and for other trainers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch.data.files import json_line, write_text
from self_rewarding_lm_pytorch.data.store import ShardStore, told_once
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair

NO_TEXT = "its prompt is known by token ids alone"  # SPIN on ids, or of a version that kept no text
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
    and, beside them, both scores. Where prompts are conversations, or the plan's chat.system stands in them,
    all three are lists of messages, the system's first: they are then trained on as the run read them.
    """
    stages = sorted(path for path in (run_folder / "stages").glob("*") if path.is_dir())
    if not stages:
        raise DataError(f"{run_folder} holds no stages to export; name the folder a run wrote to")
    system = _plans_system(run_folder / "plan.yaml")
    written = []
    for stage in stages:
        store = ShardStore(stage)
        left_out: Counter[str] = Counter()
        for name, rows in (("pairs", _pairs(store, system, left_out)), ("judgments", _judgments(store))):
            lines = [json_line(row) for row in rows]
            if lines:
                write_text(out / f"{stage.name}-{name}.jsonl", "".join(lines))
            own = dict(left_out) if name == "pairs" else {}
            if lines or own:
                written.append(Exported(out / f"{stage.name}-{name}.jsonl", len(lines), own))
    return written


def _plans_system(plan: Path) -> str | None:
    """What the plan has the system say where a conversation has it say nothing, if anything."""
    try:
        chat = (yaml.safe_load(plan.read_text(encoding="utf-8")) or {}).get("chat") or {}
        system: str | None = chat.get("system")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise DataError(
            f"{plan} cannot be read, so it is not known what the system says before prompts: {error}; put it "
            "back from a copy, or remove it to have the pairs without that"
        ) from error
    return system


def _pairs(store: ShardStore, system: str | None, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    asked = _asked(store.folder)
    is_spoken = any(isinstance(entry, list) for entry in asked) or (bool(asked) and system is not None)
    for pair in store.read_all(PreferencePair):
        own = asked[pair.prompt_index] if pair.prompt_index < len(asked) else None
        if own is None and not pair.prompt:
            left_out[NO_TEXT] += 1
        elif not pair.chosen or not pair.rejected:
            left_out[EMPTY] += 1
        else:
            texts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            if own is not None:
                texts |= {"prompt": own}
            yield {
                **(_as_messages(texts, None if own is None else system) if is_spoken else texts),
                "chosen_score": pair.chosen_score,
                "rejected_score": pair.rejected_score,
            }


def _asked(stage: Path) -> list[Any]:
    """What the stage asked, texts and conversations as the data have them; nothing where that is not kept."""
    path = stage / "items" / "prompts.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _as_messages(texts: dict[str, Any], system: str | None) -> dict[str, Any]:
    asked = texts["prompt"]
    prompt = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
    if system is not None and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
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

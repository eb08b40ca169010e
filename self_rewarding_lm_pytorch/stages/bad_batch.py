"""The batch of a step that destroyed nothing because it was not applied: kept to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from self_rewarding_lm_pytorch.data.files import write_atomically, write_json
from self_rewarding_lm_pytorch.records import Example, PairExample

Batch = Mapping[str, Sequence[Example | PairExample]]
"""Of each term of a step, its items."""


def save_batch(path: Path, batch: Batch, facts: Mapping[str, Any]) -> Path:
    """Writes PATH.safetensors (ids int64 (T,), is_target bool (T,) of every sequence) and PATH.json.

    Tensors are called TERM.PLACE.ids, or TERM.PLACE.chosen.ids and so on; the JSON lists the same items with
    their numbers of tokens and targets, beside `facts`. Returns the safetensors file.
    """
    tensors: dict[str, Tensor] = {}
    listed: dict[str, list[dict[str, Any]]] = {}
    for term, items in batch.items():
        listed[term] = []
        for place, item in enumerate(items):
            entry: dict[str, Any] = {"place": place}
            if isinstance(item, PairExample):
                entry |= {"index": item.index, "margin": item.margin, "certainty": item.certainty}
            for side, example in _sequences(item).items():
                name = ".".join(part for part in (term, str(place), side) if part)
                tensors[f"{name}.ids"] = example.ids.detach().cpu().clone().contiguous()
                tensors[f"{name}.is_target"] = example.is_target.detach().cpu().clone().contiguous()
                counts = {"tokens": len(example), "targets": example.num_targets}
                entry |= {side: counts} if side else counts
            listed[term].append(entry)
    write_json(path.with_name(f"{path.name}.json"), {**facts, "items": listed})
    file = path.with_name(f"{path.name}.safetensors")
    write_atomically(file, lambda temporary: _save(tensors, temporary))
    return file


def _sequences(item: Example | PairExample) -> dict[str, Example]:
    if isinstance(item, PairExample):
        return {"chosen": item.chosen, "rejected": item.rejected}
    return {"": item}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path)

"""A run's stages as rows: the summary's, and where it has none what the manifest and the folders say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from self_rewarding_lm_pytorch.report.run_files import Stage

Row = dict[str, Any]


def dicts(value: Any) -> list[Row]:
    """The objects of a list; what is something else is as absent as what is missing."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def stage_rows(summary: Mapping[str, Any], manifest: Mapping[str, Any], stages: Sequence[Stage]) -> list[Row]:
    """In the form of the summary's rows; those of stages that are not done have `is_open` besides.

    A run writes its summary when it ends, but the manifest after every stage.
    """
    told, entries = dicts(summary.get("stages")), _entries(manifest)
    folders = {stage.name: stage for stage in stages}
    finished = [name for name, entry in entries.items() if entry.get("state") == "done"]
    known = {str(row.get("name")) for row in told}
    rest = [  # a folder is called NN-NAME, and a summary may say either
        _row(name, entries.get(name, {}), folders.get(name))
        for name in sorted({*folders, *finished})
        if not known & {name, name.partition("-")[2]}
    ]
    return told + rest


def evaluation_rows(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[Row]:
    """The summary's, or the manifest's where it knows of more."""
    told = dicts(summary.get("evaluation"))
    noted = dicts([entry.get("evaluation") for entry in _entries(manifest).values()])
    return told if len(told) >= len(noted) else noted


def num_given(rows: Sequence[Row], stages: Sequence[Stage]) -> int:
    """Pairs that came with the data: a run does not copy them into its folder."""
    copied = {name for stage in stages if stage.pairs for name in (stage.name, stage.own_name)}
    counts = [row.get("num_pairs") for row in rows if is_given(row) and str(row.get("name")) not in copied]
    return sum(count for count in counts if type(count) is int)


def kind_of(row: Mapping[str, Any]) -> str:
    """The stage's kind alone."""
    return str(row.get("kind") or "").partition(",")[0]


def is_given(row: Mapping[str, Any]) -> bool:
    """Whether the stage's pairs come with the data."""
    return kind_of(row) == "dpo"


def _entries(manifest: Mapping[str, Any]) -> dict[str, Row]:
    """The manifest's entries by the names of their folders."""
    return {f"{n:02d}-{entry.get('name')}": entry for n, entry in enumerate(dicts(manifest.get("stages")), 1)}


def _row(name: str, entry: Row, stage: Stage | None) -> Row:
    """Of a stage that the summary does not know. entry: the manifest's, empty where it has none."""
    stored, plan = entry.get("outcome"), stage.plan if stage else {}
    is_done = entry.get("state") == "done"
    kind = str(entry.get("kind") or plan.get("kind") or "")
    row = {"name": entry.get("name") or name, "kind": kind, **(_counted(stage) if stage else {})}
    if is_done:
        return {**row, **stored} if isinstance(stored, dict) else row
    return {**row, "kind": ", ".join(filter(None, (kind, "not finished"))), "is_open": True}


def _counted(stage: Stage) -> Row:
    """What an open stage has stored so far; without candidates there were no visits."""
    row: Row = {"num_pairs": len(stage.pairs)}
    if not stage.candidates:
        return row
    places = {(each.prompt_index, each.visit) for each in stage.candidates}
    places |= {(each.prompt_index, each.visit) for each in stage.pairs}
    places |= {(each["prompt_index"], each["visit"]) for each in stage.skipped}
    reasons = [str(each.get("reason")) for each in stage.skipped]
    row["yield"] = {
        "prompts": len({prompt for prompt, _ in places}),
        "visits": len(places),
        "candidates": len(stage.candidates),
        "pairs": len(stage.pairs),
        "skipped": {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
    }
    return row

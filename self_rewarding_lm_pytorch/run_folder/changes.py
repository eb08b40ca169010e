"""What decides a run's result and is no longer what it was when the run began."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.checkpoint_files import without_times

_OWN = "self-rewarding-lm-pytorch"
_DECIDING = ("torch", "transformers", "x-transformers", "accelerate")
_NOTED = (_OWN, *_DECIDING, "pyarrow")
_OF_ADAPTERS = ("peft", "bitsandbytes")  # noted where an adapter is trained

FREE = (
    r"run",  # a folder may be moved
    r"report_card\.guard",
    r"save_every_seconds",
    r"device",  # which one the run had is a fact of its own
    r"trackers",
    r"keep_last",
    r"push_to_hub",
    r"(stages\.\d+\.)?alarms",
)
"""Keys of a plan by which nothing is made, as patterns from its top; they may change between two goes."""

_FREE = re.compile(rf"({'|'.join(FREE)})($|\.)")


@dataclass(frozen=True)
class Change:
    """One thing that differs. `where` is its place in the plan, or what it is."""

    where: str
    before: Any
    now: Any
    kind: str  # plan, free (of the plan, without effect), or a fact's name
    said: str = ""  # in the place of both values

    def __str__(self) -> str:
        return f"{self.where}: {self.said or f'{_short(self.before)} became {_short(self.now)}'}"


def plan_changes(before: Any, after: Any, path: str = "") -> list[Change]:
    """Where two plans differ, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [
            change
            for key in keys
            for change in plan_changes(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        ]
    kind = "free" if _FREE.match(path) else "plan"
    if isinstance(before, list) and isinstance(after, list):
        pairs = enumerate(zip(before, after, strict=False), 1)
        found = [change for i, (old, new) in pairs for change in plan_changes(old, new, f"{path}.{i}")]
        said = f"{len(before)} became {len(after)} entries"
        longer = [] if len(before) == len(after) else [Change(path, before, after, kind, said)]
        return found + longer
    return [] if before == after else [Change(path, before, after, kind)]


def fact_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Where what a manifest notes besides the plan differs. What either does not tell is not compared."""
    both = [name for name in now if before.get(name) is not None and now[name] is not None]
    return [change for name in both for change in _COMPARE[name](before[name], now[name])]


def versions(also: Sequence[str] = ()) -> dict[str, str]:
    """Of Python and of the libraries that decide a result. also: of those, what this run uses besides."""
    found = {"python": platform.python_version()}
    for package in (*_NOTED, *also):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def refusal(path: Path, changes: Sequence[Change]) -> ConfigError:
    """Everything that differs, and the ways out."""
    what = "of another plan" if any(change.kind == "plan" for change in changes) else "that began otherwise"
    listed = "\n".join(f"  - {change}" for change in changes)
    return ConfigError(
        f"{path} holds a run {what}, and going on would mix the two:\n{listed}\n"
        "Take back what changed, begin afresh (--fresh), name another run folder, or go on in spite of it: "
        "--allow-changed keeps what is stored, does the rest as things are now, and notes the change."
    )


def _versions(before: Mapping[str, str], now: Mapping[str, str]) -> list[Change]:
    found = []
    for name, parts in (("python", 2), (_OWN, 2), *((name, None) for name in (*_DECIDING, *_OF_ADAPTERS))):
        old, new = (".".join(str(v.get(name)).split(".")[:parts]) for v in (before, now))
        if name in before and old != new and (name in now or name not in _OF_ADAPTERS):
            found.append(Change(f"version of {name}", before[name], now.get(name), "versions"))
    return found


def _device(before: str, now: str) -> list[Change]:
    kinds = before.partition(":")[0], now.partition(":")[0]
    return [] if kinds[0] == kinds[1] else [Change("device", *kinds, "device")]


def _number(name: str) -> Any:
    return lambda before, now: [] if before == now else [Change(f"number of {name}", before, now, name)]


def _files(before: Mapping[str, str], now: Mapping[str, str]) -> list[Change]:
    changed = [file for file in sorted(now) if before.get(file, now[file]) != now[file]]
    return [Change(f"file {file}", before[file], now[file], "data", _OTHER) for file in changed]


def _models(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """By name: a model of another name is a change of the plan."""
    return [change for name in now if name in before for change in _model(name, before[name], now[name])]


def _model(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    old_stage, stage = _stage(before), _stage(now)
    if None not in (old_stage, stage) and old_stage != stage:
        return [Change(f"model {name}, stage of that run", old_stage, stage, "models")]
    found = [
        Change(f"model {name}, {key}", before[key], now[key], "models")
        for key in ("commit", "weights")
        if key in before and key in now and before[key] != now[key]
    ]
    if "files" not in before or "files" not in now:
        return found
    old, new = without_times(before["files"]), without_times(now["files"])
    for file in sorted({*old, *new}):
        if old.get(file) != new.get(file):
            said = _GONE if file not in new else _NEW if file not in old else _OTHER
            found.append(Change(f"model {name}, {file}", old.get(file), new.get(file), "models", said))
    return found


def _stage(known: Mapping[str, Any]) -> str | None:
    """Of an earlier run, whose model this is; that run's folder may have been moved."""
    place = Path(known.get("checkpoint", ""))
    return place.parent.name if place.name == "checkpoint" else None


_OTHER = "what is in it is not what it was when this run began"
_GONE = "it is not there any more"
_NEW = "it was not there when this run began"
_COMPARE: dict[str, Any] = {
    "versions": _versions,
    "device": _device,
    "processes": _number("processes"),
    "threads": _number("threads"),
    "data": _files,
    "models": _models,
}


def _short(value: Any) -> str:
    return f"{value!r:.60}"

"""What a user may get wrong: how each case is made, and what is asserted of all of them alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from self_rewarding_lm_pytorch.alarms import StopRun
from self_rewarding_lm_pytorch.errors import ConfigError, SelfRewardingError
from self_rewarding_lm_pytorch.pipeline import run
from tests.stages.worlds import QUIET, STAGES

LONGEST_MESSAGE = 2500
_TOLD = ("run/manifest.json", "run/summary.json")


class World:
    """A folder of a test: what the user gives lies in `given`, the run goes to `run`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.given = root / "given"
        self.run = root / "run"
        self.given.mkdir()

    def file(self, name: str, content: str | bytes) -> str:
        """The path of a new file in `given`."""
        path = self.given / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def plan(self, *stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return {
            "model": "tests.stages.worlds:factory",
            "run": str(self.run),
            "generation": {"shard_size": 2},
            "stages": list(stages),
            **changes,
        }

    def contents(self) -> dict[str, bytes]:
        """Every file below, byte for byte; that folders and links are there."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            if path.is_file() and not path.is_symlink()
            else b"(other)"
            for path in sorted(self.root.rglob("*"))
        }


def stage(base: str, /, **changes: Any) -> dict[str, Any]:
    """One of the small stages of `tests/stages/worlds.py`, with changes; None takes a key out."""
    merged = {"name": base, **STAGES[base], **changes}
    return {key: value for key, value in merged.items() if value is not None}


@dataclass(frozen=True)
class Case:
    """One wrong input."""

    name: str  # as a sentence
    make: Callable[[World], Any]  # the plan (mapping or file) that is run, or a function that is called
    words: tuple[str, ...]  # all stand in the message: the value, and what to do
    error: type[SelfRewardingError] = ConfigError
    late: bool = False  # it can only be known when the run has begun, so its folder says what happened
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def cases(table: list[Case]) -> pytest.MarkDecorator:
    """The table as parameters of a test."""
    return pytest.mark.parametrize("case", table, ids=str)


def check(case: Case, root: Path) -> None:
    """The case is refused in the right words, and nothing is written or lost."""
    world = World(root)
    wrong = case.make(world)
    before = world.contents()
    with pytest.raises(SelfRewardingError) as error:
        if callable(wrong):
            wrong()
        else:
            run(wrong, reporter=QUIET, overrides=case.overrides)
    message = str(error.value)
    assert type(error.value) is case.error, message
    missing = [word for word in case.words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    assert len(message) <= LONGEST_MESSAGE, f"{len(message)} characters: {message[:300]}"
    after = world.contents()
    if case.late:
        _check_failed(world, before, after, error.value)
    else:
        assert after == before, sorted(after.keys() ^ before.keys())


def _check_failed(world: World, before: dict[str, bytes], after: dict[str, bytes], error: Exception) -> None:
    """What was there is as it was; the manifest tells what happened, and no stage is taken for done."""
    kept = [name for name in before if name not in _TOLD]
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    manifest = json.loads((world.run / "manifest.json").read_text())
    status = "stopped" if isinstance(error, StopRun) else "failed"
    assert (manifest["status"], manifest["error"]) == (status, str(error))
    assert [entry["state"] for entry in manifest["stages"]][-1] != "done"
    assert json.loads((world.run / "summary.json").read_text())["status"] == status
    assert yaml.safe_load((world.run / "plan.yaml").read_text())["stages"]

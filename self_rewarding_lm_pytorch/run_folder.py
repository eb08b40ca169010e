"""A run on disk: its manifest, its plan, and how far each stage is."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch.data.files import write_json, write_text
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError

_PACKAGES = ("torch", "transformers", "x-transformers", "accelerate", "pyarrow")


class RunFolder:
    """The folder of one run. What is in it was written whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}

    def open(self, plan: str, seed: int, stages: list[tuple[str, str]], *, fresh: bool) -> None:
        """Goes on with the run that is there, if it is of the same plan; otherwise begins one.

        plan: the resolved plan's text. stages: (name, kind) in order.
        Raises ConfigError if another plan's run is there.
        """
        if fresh:
            self.clear()
        file = self.path / "manifest.json"
        if file.exists():
            self._continue(file, plan)
            return
        self.manifest = {
            "schema": 1,
            "status": "running",
            "versions": versions(),
            "seed": seed,
            "stages": [{"name": name, "kind": kind, "state": "pending"} for name, kind in stages],
        }
        write_text(self.path / "plan.yaml", plan)
        self.save()

    def clear(self) -> None:
        """Removes what a run wrote here, and nothing else."""
        for name in ("manifest.json", "plan.yaml", "metrics.jsonl", "summary.json", "report.html"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("stages", "evaluation", "initial"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for file in self.path.glob("[0-9]*.*.safetensors"):
            file.unlink()

    def _continue(self, file: Path, plan: str) -> None:
        try:
            self.manifest = json.loads(file.read_text(encoding="utf-8"))
            before = (self.path / "plan.yaml").read_text(encoding="utf-8")
        except (OSError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"the run in {self.path} cannot be continued: {error}. Begin afresh (--fresh), or use "
                "another folder."
            ) from error
        if before != plan:
            changes = "; ".join(_changes(yaml.safe_load(before), yaml.safe_load(plan)))
            raise ConfigError(
                f"{self.path} holds a run of another plan ({changes}). Continuing it would mix the two: "
                "take the old plan back, begin afresh (--fresh), or name another run folder."
            )

    @property
    def is_finished(self) -> bool:
        return bool(self.manifest.get("status") == "completed")

    def stage(self, number: int) -> dict[str, Any]:
        """The manifest's entry of a stage, from 1."""
        entry: dict[str, Any] = self.manifest["stages"][number - 1]
        return entry

    def stage_folder(self, number: int) -> Path:
        return self.path / "stages" / f"{number:02d}-{self.stage(number)['name']}"

    def update_stage(self, number: int, **values: Any) -> None:
        self.stage(number).update(values)
        self.save()

    def save(self, **values: Any) -> None:
        self.manifest.update(values)
        write_json(self.path / "manifest.json", self.manifest)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide a result."""
    found = {"python": platform.python_version()}
    for package in ("self-rewarding-lm-pytorch", *_PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _changes(before: Any, after: Any, path: str = "") -> list[str]:
    """Where two plans differ, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [
            line
            for key in keys
            for line in _changes(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True), 1)
        return [line for i, (old, new) in pairs for line in _changes(old, new, f"{path}.{i}")]
    return [] if before == after else [f"{path}: {before!r:.40} became {after!r:.40}"]

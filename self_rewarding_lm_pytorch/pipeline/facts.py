"""What decides a run's result besides its plan: libraries, device, processes, files, models."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.data.text_files import unreadable
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.plans.checks import data_hashes
from self_rewarding_lm_pytorch.run_folder import RunFolder
from self_rewarding_lm_pytorch.run_folder.changes import versions
from self_rewarding_lm_pytorch.run_folder.model_files import is_model_folder, model_notes, weights_hash


def facts_before_loading(
    plan: Plan, folder: RunFolder, plan_text: str, accelerator: Accelerator
) -> dict[str, Any]:
    """All that can be told without a model; read by the main process."""

    def read() -> dict[str, Any]:
        numbers = [n for n in range(1, len(plan.stages) + 1) if not folder.is_trained(n)]
        data = data_hashes([plan.stages[n - 1] for n in numbers], plan.base)
        resolved = yaml.safe_load(plan_text)
        parts = [resolved["model"], resolved["report_card"], *(resolved["stages"][n - 1] for n in numbers)]
        named = list(_named_places(parts, plan.base))
        files = {name: _hash(path) for name, path in named if path.is_file() and name not in data}
        known = folder.manifest.get("models", {})
        return {
            "data": files | data,
            "models": {
                name: {"files": model_notes(path, known.get(name, {}).get("files"))}
                for name, path in named
                if is_model_folder(path)
            },
        }

    return {
        "versions": versions(),
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
        "processes": processes.world_size(),
        **processes.on_main(read),
    }


def facts_of_model(plan: Plan, policy: Policy) -> dict[str, Any]:
    """What is known of the plan's model once it is loaded: a hub's commit, or the weights a factory made.

    A module from Python is kept in the run folder (`initial/`), so what it holds later does not matter.
    """
    if not isinstance(plan.model, str | Path) or _place(str(plan.model), plan.base).is_dir():
        return {}
    commit = getattr(getattr(policy.module, "config", None), "_commit_hash", None)
    known = {"commit": commit} if commit is not None else {"weights": weights_hash(policy.module)}
    return {str(plan.model): known}


def _named_places(parts: list[Any], base: Path | None) -> Iterator[tuple[str, Path]]:
    """Every text of these parts of a plan that names a file or a model: data, templates, reward functions."""
    for text in dict.fromkeys(_texts(parts)):
        with contextlib.suppress(OSError, ValueError):  # too long for a name, or with a NUL
            for name in dict.fromkeys((text, text.rpartition(":")[0])):
                path = _place(name, base)
                if (Path(name).suffix and path.is_file()) or (name and is_model_folder(path)):
                    yield name, path


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str) and len(value) < 1_000 and "\n" not in value:
        yield value


def _place(name: str, base: Path | None) -> Path:
    beside = (base or Path()) / name
    return beside if beside.exists() else Path(name)


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error

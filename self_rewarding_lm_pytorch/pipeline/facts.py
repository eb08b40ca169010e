"""What decides a run's result besides its plan: libraries, device, processes, files, models."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.data.lines import unreadable
from self_rewarding_lm_pytorch.models.adapters import base_of, is_adapter_folder
from self_rewarding_lm_pytorch.models.checkpoint_files import is_model_folder
from self_rewarding_lm_pytorch.models.of_runs import found_model, model_source, settled_folders
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.objects import is_reference
from self_rewarding_lm_pytorch.plans.checks import data_hashes
from self_rewarding_lm_pytorch.run_folder import RunFolder
from self_rewarding_lm_pytorch.run_folder.changes import versions
from self_rewarding_lm_pytorch.run_folder.model_files import model_notes, weights_hash

if TYPE_CHECKING:  # half a second to import
    from accelerate import Accelerator


_NAMING = ("model", "report_card", "chat")
"""Parts of a plan, besides its stages, that may name files or models."""


def facts_before_loading(
    plan: Plan, folder: RunFolder, plan_text: str, accelerator: Accelerator
) -> dict[str, Any]:
    """All that can be told without a model; read by the main process."""

    def read() -> dict[str, Any]:
        numbers = [n for n in range(1, len(plan.stages) + 1) if not folder.is_trained(n)]
        data = data_hashes([plan.stages[n - 1] for n in numbers], plan.base)
        resolved = yaml.safe_load(plan_text)
        parts = [resolved[name] for name in ("model", "chat", "report_card", "generation")]
        parts += [resolved["stages"][n - 1] for n in numbers]
        earlier = settled_folders()
        parts += [_builder(path) for path in earlier.values()]
        named = [*earlier.items(), *_named_places(parts, plan.base)]
        bases = [base_of(path) for _, path in named if is_adapter_folder(path)]
        named += [(base, Path(base)) for base in bases]
        files = {name: _hash(path) for name, path in named if path.is_file() and name not in data}
        known = folder.manifest.get("models", {})
        return {
            "data": files | data,
            "models": {
                name: _checkpoint(earlier.get(name))
                | {"files": model_notes(path, known.get(name, {}).get("files"))}
                for name, path in named
                if is_model_folder(path) or name in earlier
            },
        }

    return {
        "versions": versions(_also_used(plan)),
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
        "processes": processes.world_size(),
        **processes.on_main(read),
    }


def _also_used(plan: Plan) -> list[str]:
    """Libraries that this run needs, and others do not."""
    is_named = isinstance(plan.model, str | Path) and is_adapter_folder(_source(plan))
    is_quantized = plan.adapter is not None and plan.adapter.quantize is not None
    used = {"peft": is_named or plan.adapter is not None, "bitsandbytes": is_quantized}
    return [name for name, is_used in used.items() if is_used]


def facts_of_model(plan: Plan, policy: Policy) -> dict[str, Any]:
    """What is known of the plan's model once it is loaded: a hub's commit, or the weights a factory made.

    A module from Python is kept in the run folder (`initial/`), so what it holds later does not matter.
    """
    if not isinstance(plan.model, str | Path) or is_model_folder(_source(plan)):
        return {}
    if str(plan.model) in settled_folders():  # read before, as files
        return {}
    commit = getattr(getattr(policy.module, "config", None), "_commit_hash", None)
    known = {"commit": commit} if commit is not None else {"weights": weights_hash(policy.module)}
    return {str(plan.model): known}


def _builder(place: Path) -> str | None:
    """What makes the model that a run's weights go into, which its folder does not hold."""
    found = found_model(str(place))
    return None if found is None or found.is_whole else found.builder


def _checkpoint(place: Path | None) -> dict[str, Any]:
    """Which folder a run or a stage stood for."""
    return {} if place is None else {"checkpoint": str(place)}


def _source(plan: Plan) -> Path:
    return Path(model_source(str(plan.model), plan.base))


def _named_places(parts: list[Any], base: Path | None) -> Iterator[tuple[str, Path]]:
    """Every text of these parts of a plan that names a file or a model: data, templates, one's own code."""
    for text in dict.fromkeys(_texts(parts)):
        with contextlib.suppress(OSError, ValueError):  # too long for a name, or with a NUL
            for name in dict.fromkeys((text, text.rpartition(":")[0])):
                path = _place(name, base)
                if (Path(name).suffix and path.is_file()) or (name and is_model_folder(path)):
                    yield name, path


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*filter(is_reference, value), *value.values()]  # one's own losses in a mix are keys
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

"""The models that `evaluate` compares: loaded one at a time, each when its answers are sampled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.checkpoint_files import check_in_its_run
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.text import Codec

Loaded = tuple[Policy, Codec]
INITIAL = "initial"


@dataclass(frozen=True)
class Contestant:
    """A model to compare."""

    name: str
    load: Callable[[], Loaded]
    identity: Any  # JSON that differs where the weights may


@dataclass(frozen=True)
class Source:
    """How models are loaded. factory: what builds the model of checkpoints that are weights alone."""

    factory: str | None = None
    dtype: str = "float32"

    def load(self, name: str) -> Loaded:
        """A model by its name, with its tokenizer."""
        policy, codec = load_policy(name, dtype=self.dtype)
        if codec is None:
            raise ConfigError(
                f"model {name!r} brings no tokenizer, so it can neither read prompts nor answer; let its "
                "factory return (module, codec)"
            )
        return policy, codec


def contestants(targets: str, source: Source, *, is_initial_wanted: bool = False) -> list[Contestant]:
    """What `RUN`, or `MODEL,MODEL,...` (run folders among them), names, in order.

    Raises ConfigError where a folder holds no model or two models would have the same name.
    """
    found: list[Contestant] = []
    for target in (part.strip() for part in targets.split(",")):
        if (Path(target) / "manifest.json").is_file():
            found += _of_run(Path(target), source, is_initial_wanted)
        elif target:
            found.append(_named(target, source))
    names = Counter(each.name for each in found)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ConfigError(
            f"two models would be called {twice[0]!r}, so their figures could not be told apart; give "
            "folders of different names"
        )
    if len(found) < 2:
        raise ConfigError(
            f"{targets!r} names {len(found)} model{'s' * (len(found) != 1)}, and a comparison needs two; "
            "name a run folder with two finished stages (or --initial), or models with commas between"
        )
    return found


def _named(target: str, source: Source) -> Contestant:
    path = Path(target)
    if not path.is_dir():
        return Contestant(target, lambda: source.load(target), target)
    if not _holds_model(path):
        raise ConfigError(
            f"{target!r} is a folder without config.json, weights (*.safetensors) or a run's manifest.json, "
            "so it holds no model; name a run folder, a checkpoint, or a model's folder"
        )
    name = path.parent.name.partition("-")[2] if path.name == "checkpoint" else path.name
    return Contestant(name or str(path), lambda: _checkpoint(path, source), _weights(path))


def _of_run(run: Path, source: Source, is_initial_wanted: bool) -> list[Contestant]:
    """A run's checkpoints, named as its stages; what has trained nothing new is the model before it."""
    try:
        stages = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["stages"]
        plan = yaml.safe_load((run / "plan.yaml").read_text(encoding="utf-8"))
        places = [
            (stage["name"], run / "stages" / f"{n:02d}-{stage['name']}") for n, stage in enumerate(stages, 1)
        ]
        model = str(plan["model"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"the run in {run} cannot be read: {error!r}; name its checkpoints instead"
        ) from error
    known = Source(source.factory or (None if model.startswith("<") else model), source.dtype)
    found = [
        Contestant(name, partial(_checkpoint, place / "checkpoint", known), _weights(place / "checkpoint"))
        for name, place in places
        if (place / "checkpoint").is_dir()
    ]
    if is_initial_wanted:
        kept = run / INITIAL
        beginning = (
            Contestant(INITIAL, lambda: _checkpoint(kept, known), _weights(kept))
            if kept.is_dir()
            else Contestant(INITIAL, lambda: known.load(known.factory or model), known.factory or model)
        )
        found.insert(0, beginning)
    return found


def _checkpoint(folder: Path, source: Source) -> Loaded:
    """A folder that stands alone, or weights for what a factory (or the plan's model) builds."""
    check_in_its_run(folder)
    is_whole = (folder / "config.json").is_file() and (folder / "tokenizer_config.json").is_file()
    if is_whole and (source.factory is None or ":" not in source.factory):
        return source.load(str(folder))
    if source.factory is None:
        raise ConfigError(
            f"{folder} holds weights alone (its model or tokenizer came from Python), so it cannot be loaded "
            "by itself; name what builds the model: --model module:factory, a function that returns "
            "(module, codec)"
        )
    policy, codec = source.load(source.factory)
    policy.restore(folder)
    return policy, codec


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))


def _weights(folder: Path) -> list[Any]:
    """Which files, how large and of when: enough to see that a checkpoint was written again."""
    files: Sequence[Path] = sorted(folder.rglob("*.safetensors"))
    return [str(folder), *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]

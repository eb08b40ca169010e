"""The models that `evaluate` compares, found by their names; each is loaded when its answers are due."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.of_runs import is_run
from self_rewarding_lm_pytorch.parts.models import NamedModel, models_of_run, named_model


@dataclass(frozen=True)
class Contestant:
    """A model to compare."""

    name: str
    model: NamedModel

    @property
    def identity(self) -> Any:
        """JSON that differs where its answers may: how it is built and read, and which weights it has."""
        place = self.model.weights or Path(self.model.source)
        return {"plan": self.model.settings(), "weights": _weights(place)}


def contestants(
    targets: str, *, factory: str | None = None, dtype: str | None = None, is_initial_wanted: bool = False
) -> list[Contestant]:
    """What `RUN`, or `MODEL,MODEL,...` (run folders among them), names, in order.

    factory, dtype: as `named_model` takes them. Raises ConfigError where a folder holds no model, or two
    models would have the same name.
    """
    found: list[Contestant] = []
    for target in (part.strip() for part in targets.split(",")):
        if target and is_run(Path(target)):
            models = models_of_run(Path(target), factory=factory, dtype=dtype, with_initial=is_initial_wanted)
            found += [Contestant(name, model) for name, model in models.items()]
        elif target:
            model = named_model(target, factory=factory, dtype=dtype)
            found.append(Contestant(_short(target), model))
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


def _short(target: str) -> str:
    """A folder's own name; of a checkpoint, its stage's."""
    path = Path(target)
    if not path.is_dir():
        return target
    return (path.parent.name.partition("-")[2] if path.name == "checkpoint" else path.name) or str(path)


def _weights(place: Path) -> list[Any]:
    """Which files, how large and of when: enough to see that a checkpoint was written again."""
    files = sorted(place.rglob("*.safetensors")) if place.is_dir() else []
    return [str(place), *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]

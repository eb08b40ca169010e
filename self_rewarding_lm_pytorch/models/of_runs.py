"""Models that runs of this library made, by what people call them: a run, a stage of it, their folders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.checkpoint_files import is_model_folder
from self_rewarding_lm_pytorch.objects import folder_near

INITIAL = "initial"
"""Of a run, the model as it began; where that came from Python, also the folder that holds it."""

# What of a run's plan says how its model is built and read; the rest says what is done with it.
PLAN_KEYS = ("model", "dtype", "seed", "trust_remote_code", "chat", "adapter")

_settled: ContextVar[Mapping[str, Path]] = ContextVar("folders of the models that a run began with")


@dataclass(frozen=True)
class FoundModel:
    """Where a model is.

    place: its folder; None: it is the one that its run's plan names. plan: of its run's plan, how it is built
    and read; empty outside of a run. which: of a run or stage that was named, which of its models this is;
    empty where the folder itself was named.
    """

    name: str
    place: Path | None
    plan: Mapping[str, Any] = field(default_factory=dict)
    which: str = ""

    @property
    def said(self) -> str:
        """A line about it."""
        return f"model {self.name}: {self.which}"

    @property
    def is_whole(self) -> bool:
        """Whether its folder is all of it, with its tokenizer; else weights of what a plan builds."""
        place = self.place
        return place is not None and is_model_folder(place) and (place / "tokenizer_config.json").is_file()

    @property
    def quantized(self) -> str | None:
        """In how few bits the model is that its adapter was trained on, which its folder does not say."""
        adapter = self.plan.get("adapter")
        return adapter.get("quantize") if isinstance(adapter, Mapping) else None

    @property
    def builder(self) -> str | None:
        """What its run's plan says that the model is built by; None where that came from Python."""
        named = self.plan.get("model")
        return None if named is None or str(named).startswith("<") else str(named)


def is_run(path: Path) -> bool:
    """Whether a run wrote to this folder."""
    return (path / "manifest.json").is_file()


def found_model(name: str, base: Path | None = None) -> FoundModel | None:
    """The model that a name means: a run (its last finished stage's), RUN:STAGE, RUN:initial, or a folder.

    base: where a relative name is looked for first. Default: see `objects.beside`. None: for a name of the
    hub, module:factory, and a folder that holds no weights. Raises ConfigError for a run that has no model
    yet, and for a stage that it does not have.
    """
    path = _place(name, base)
    if path is None:
        return None
    if is_run(path):
        return _of_run(name, path, None)
    if path.is_dir():
        return _of_folder(name, path)
    run, colon, stage = name.rpartition(":")
    place = _place(run, base) if colon else None
    if place is not None and is_run(place):
        return _of_run(name, place, stage)
    if len(Path(name).parts) > 1 and not colon and is_run(path.parent):
        raise ConfigError(f"{name!r} is no folder in the run {path.parent}; {_known(path.parent)}")
    return None


def model_source(name: str, base: Path | None = None) -> str:
    """What is loaded for a name: the folder of a run's or stage's model, else what `folder_near` gives.

    base: see `found_model`, whose errors this raises too, and ConfigError for a model that only its own run
    can train.
    """
    if (known := settled_folders().get(name)) is not None:
        return str(known)
    found = found_model(name, base)
    if found is None or not found.which:
        return folder_near(name, base)
    if found.quantized is not None and found.place is not None:
        raise ConfigError(
            f"the adapter of {name!r} was trained on a model in few bits ({found.quantized}), which its "
            f"checkpoint does not hold; merge it into its model (self-rewarding-lm merge {found.place} --out "
            f"FOLDER) and name that folder, or name {found.place} to train it on that model as it was saved"
        )
    if found.place is not None:
        return str(found.place)
    if found.builder is None:
        raise ConfigError(f"{name!r} came from Python, and its folder is gone; name a stage of that run")
    return model_source(found.builder, base)


@contextmanager
def settled(folders: Mapping[str, Path]) -> Iterator[None]:
    """What names of runs and stages mean meanwhile, whatever those runs come to."""
    token = _settled.set(folders)
    try:
        yield
    finally:
        _settled.reset(token)


def settled_folders() -> Mapping[str, Path]:
    """What `settled` was given."""
    return _settled.get({})


def stages_with_models(run: Path) -> dict[str, Path]:
    """The checkpoints of finished stages that are there, by the stages' names, in order.

    Raises ConfigError for a folder that is no run.
    """
    return _kept(run, _read(run)[0])


def no_model_in(name: str) -> str:
    """Of a folder."""
    return (
        f"{name!r} is a folder without config.json, and no run's (manifest.json) or stage's, so it holds no "
        "model and cannot be loaded; name a run's folder, a stage's, or one that save_pretrained wrote"
    )


def no_builder(place: Path) -> str:
    """Of a folder that holds weights alone, where nothing says what they are of."""
    return (
        f"{place} holds weights alone (its model or tokenizer came from Python), so it cannot be loaded by "
        "itself; name module:factory of a function without arguments that builds that model, loads these "
        "weights into it (safetensors.torch.load_model) and returns (module, codec)"
    )


def _place(name: str, base: Path | None) -> Path | None:
    """The path of a name; None for what no file system takes."""
    with suppress(OSError, ValueError):
        path = Path(folder_near(name, base))
        path.exists()
        return path
    return None


def _of_run(name: str, run: Path, stage: str | None) -> FoundModel:
    manifest, plan = _read(run)
    kept = _kept(run, manifest)
    if stage == INITIAL and INITIAL not in kept:
        initial, which = run / INITIAL, "the model as its run began"
        return FoundModel(name, initial if initial.is_dir() else None, plan, which)
    if stage is not None and stage not in kept:
        is_gone = stage in _finished(run, manifest)
        was = "its checkpoint is gone" if is_gone else "no finished stage is called so"
        raise ConfigError(f"{name!r}: {was}; {_known(run)}")
    if not kept:
        raise ConfigError(
            f"{run} is a run without a finished checkpoint yet; wait for its first stage, or name "
            f"{run}:{INITIAL} for the model it began with"
        )
    if stage is not None:
        return FoundModel(name, kept[stage], plan, f"the model of stage {kept[stage].parent.name}")
    place = list(kept.values())[-1]
    states = [entry.get("state") for entry in manifest["stages"]]
    so_far = "" if {*states} == {"done"} else f" ({states.count('done')} of {len(states)} finished)"
    return FoundModel(name, place, plan, f"the model of its last finished stage, {place.parent.name}{so_far}")


def _of_folder(name: str, path: Path) -> FoundModel | None:
    """A model's folder, or a checkpoint or stage folder, most of which are inside a run."""
    is_stage = (path / "checkpoint").is_dir() and not is_model_folder(path)
    place = path / "checkpoint" if is_stage else path
    if not (is_model_folder(place) or any(place.glob("*.safetensors"))):
        run = path.resolve().parent.parent
        if path.resolve().parent.name == "stages" and is_run(run):
            raise ConfigError(f"{name!r} is the folder of a stage without a checkpoint; {_known(run)}")
        return None
    run = place.resolve().parent if place.name == INITIAL else place.resolve().parent.parent.parent
    plan: dict[str, Any] = {}
    if place.name in (INITIAL, "checkpoint") and is_run(run):
        with suppress(ConfigError):  # of a run that cannot be read, a checkpoint can be named
            plan = _read(run)[1]
    return FoundModel(name, place, plan, f"the model of stage {path.resolve().name}" if is_stage else "")


def _known(run: Path) -> str:
    """Where there is a run, what may be named."""
    return f"models of {run} that are there: {', '.join([INITIAL, *stages_with_models(run)])} (RUN:NAME)"


def _kept(run: Path, manifest: Mapping[str, Any]) -> dict[str, Path]:
    return {stage: place for stage, place in _finished(run, manifest).items() if place.is_dir()}


def _finished(run: Path, manifest: Mapping[str, Any]) -> dict[str, Path]:
    return {
        entry["name"]: run / "stages" / f"{number:02d}-{entry['name']}" / "checkpoint"
        for number, entry in enumerate(manifest["stages"], 1)
        if entry.get("state") == "done"
    }


def _read(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's manifest and its plan, whose model is the one that the run began with."""
    import yaml  # here, as importing the trainers should cost little

    try:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        plan = yaml.safe_load((run / "plan.yaml").read_text(encoding="utf-8"))
        if not all(isinstance(stage["name"], str) for stage in manifest["stages"]):
            raise ValueError("a stage without a name in manifest.json")
        kept = {key: plan[key] for key in PLAN_KEYS if key in plan}
        began_with = manifest.get("models", {}).get(kept.get("model"), {}).get("checkpoint")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"the run in {run} cannot be read: {error!r:.300}; name one of its checkpoints instead"
        ) from error
    if began_with is not None and Path(began_with).is_dir():
        kept["model"] = began_with
    return manifest, kept

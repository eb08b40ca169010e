"""Plans: YAML, dictionaries and `--set` overrides to validated stages. No model is loaded here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.stages import STAGES
from self_rewarding_lm_pytorch.stages.base import GenerationSettings, Settings, StageConfig


class Plan(Settings):
    """A whole run: a model, where everything goes, and the stages in order."""

    model: Any  # hub name, folder, module:factory; from Python also an nn.Module
    tokenizer: Any = None  # from Python: a codec, or a Hugging Face tokenizer
    seed: int = 0
    run: Path = Path("runs/run")
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"  # of the weights; auto: as they were saved
    accelerate: dict[str, Any] = Field(default_factory=dict)  # arguments of accelerate.Accelerator
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    stages: list[Any]

    base: Path | None = Field(default=None, exclude=True)  # folder that relative paths start from


def load_plan(source: Any, overrides: Sequence[str] = ()) -> Plan:
    """A plan from a YAML file, a mapping or a Plan; every problem found is reported together."""
    if isinstance(source, Plan):
        return _made_in_python(source, overrides)
    base: Path | None = None
    if isinstance(source, str | Path):
        base = Path(source).parent
        source = _read_yaml(Path(source))
    if not isinstance(source, Mapping):
        raise ConfigError(f"a plan must be a mapping with model and stages, not {type(source).__name__}")
    raw = _copied(dict(source))
    problems: list[str] = []
    raw["stages"] = _inherited(raw.get("stages"), problems)
    for override in overrides:
        _apply(raw, override, problems)
    _check_names(raw["stages"], problems)
    stages = [_stage(entry, number, problems) for number, entry in enumerate(raw["stages"], 1)]
    try:
        plan = Plan.model_validate({**raw, "stages": stages, "base": base})
    except ValidationError as error:
        problems += _messages(error, "plan", Plan)
    if problems:
        raise ConfigError("the plan cannot be run:\n" + "\n".join(f"  - {line}" for line in problems))
    return plan


def _made_in_python(plan: Plan, overrides: Sequence[str]) -> Plan:
    """A Plan's stages are configs already; equal names are allowed, for nothing addresses them by name."""
    if overrides:
        raise ConfigError(f"a Plan object takes no overrides ({', '.join(overrides)}); change the object")
    problems: list[str] = []
    plan.stages = [_stage(entry, number, problems) for number, entry in enumerate(plan.stages, 1)]
    if problems:
        raise ConfigError("the plan cannot be run:\n" + "\n".join(f"  - {line}" for line in problems))
    return plan


class _Loader(yaml.SafeLoader):
    """YAML whose `1e-6` is a number, as in YAML 1.2 and JSON; PyYAML alone reads it as text."""


_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"plan {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"plan {str(path)!r} is not YAML: {error}") from error


def _copied(value: Any) -> Any:
    """Containers copied, objects (models, data sets, functions) shared."""
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if type(value) is list else value


def _inherited(entries: Any, problems: list[str]) -> list[Any]:
    """Each stage named and its training settings in one place; `like: NAME` starts from an earlier stage."""
    if not isinstance(entries, list) or not entries:
        problems.append("stages: a plan needs a list of at least one stage")
        return []
    done: list[Any] = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            done.append(entry)
            continue
        below: dict[str, Any] = {}
        if "like" in entry:
            named = {e["name"]: e for e in done if isinstance(e, Mapping) and isinstance(e.get("name"), str)}
            if str(entry["like"]) in named:
                below = _copied(named[str(entry["like"])])
            else:
                known = ", ".join(named) or "none"
                problems.append(f"stage {number}: like: {entry['like']!r} names no earlier stage ({known})")
        own = {key: value for key, value in entry.items() if key != "like"}
        own = _gathered(own, own.get("kind", below.get("kind")), f"stage {number}", problems)
        merged = _merged(below, own)
        done.append({"name": merged.get("kind"), **merged})
    return done


def _gathered(entry: dict[str, Any], kind: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """Training settings that stand beside the stage's own, moved into `train`; twice is a problem."""
    if not isinstance(kind, str) or kind not in STAGES:
        return entry
    train = entry.get("train")
    for key in STAGES[kind].training_keys(entry):
        if isinstance(train, dict) and key in train:
            problems.append(f"{where}: {key} is given twice, in train and beside it; keep one")
    return STAGES[kind].with_training_keys_moved(entry)


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        below[key] = _merged(dict(below[key]), value) if both else value
    return below


def _apply(raw: dict[str, Any], override: str, problems: list[str]) -> None:
    """`a.b.c=value`; the value is read as YAML. Stages go by name, or by number from 1."""
    path, equals, text = override.partition("=")
    if not equals:
        problems.append(f"--set {override!r} must be key=value")
        return
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        value = text  # `name=a: b` and the like: not YAML, so text
    *parents, last = path.split(".")
    place: Any = raw
    for key in parents:
        place = _step_into(place, key)
        if place is None:
            problems.append(f"--set {override!r}: there is no {key!r} in the plan")
            return
    if not isinstance(place, dict):
        problems.append(f"--set {override!r}: {parents[-1]!r} holds no settings")
        return
    place[last] = value
    raw["stages"] = [_moved(entry) for entry in raw["stages"]]


def _moved(entry: Any) -> Any:
    """A stage's training settings gathered again: `--set stages.x.beta=1` is over `train: {beta: 2}`."""
    return _gathered(entry, entry.get("kind"), "", []) if isinstance(entry, dict) else entry


def _step_into(place: Any, key: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(key, {})
    if isinstance(place, list):
        named = (entry for entry in place if isinstance(entry, dict) and entry.get("name") == key)
        by_number = place[int(key) - 1] if key.isdigit() and 0 < int(key) <= len(place) else None
        return next(named, by_number)
    return None


_NOT_IN_NAMES = re.compile(r'[/\\:*?"<>|\x00-\x1f]|^[ .]|[ .]$')


def _check_names(entries: list[Any], problems: list[str]) -> None:
    """Stages of a plan are addressed by name, and their folders are called by it."""
    numbers: dict[str, list[int]] = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if isinstance(name, str):
            numbers.setdefault(name, []).append(number)
            if not name or _NOT_IN_NAMES.search(name):
                problems.append(
                    f"stage {number}: name {name!r} cannot be a folder's; leave out / \\ : * ? \" < > | and "
                    "blanks and dots at its ends"
                )
    for name, places in numbers.items():
        if len(places) > 1:
            which = " and ".join(map(str, places))
            problems.append(f"stages {which} are both named {name!r}; give each a name of its own")


def _stage(entry: Any, number: int, problems: list[str]) -> StageConfig | None:
    if isinstance(entry, StageConfig):
        entry.name = entry.name or entry.kind
        return entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
        problems.append(f"stage {number}: needs a kind, one of {', '.join(STAGES)}")
        return None
    where = f"stage {number} ({entry.get('name', entry['kind'])})"
    try:
        kind = STAGES[entry["kind"]]
    except ConfigError as error:
        problems.append(f"{where}: {error}")
        return None
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        problems += _messages(error, where, kind)
        return None


def _messages(error: ValidationError, where: str, model: type[BaseModel]) -> list[str]:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "settings"
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"
            lines.append(f"{where}: unknown key {place!r}{hint}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: {place} is missing")
        else:
            lines.append(f"{where}: {place}={problem['input']!r:.80}: {problem['msg']}")
    return lines


def _fields_at(model: Any, path: tuple[int | str, ...]) -> list[str]:
    for key in path:
        field = model.model_fields.get(key)
        model = field.annotation if field is not None else Settings
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    fields = list(model.model_fields)
    train = model.model_fields.get("train")
    return fields + (list(train.annotation.model_fields) if train is not None and not path else [])

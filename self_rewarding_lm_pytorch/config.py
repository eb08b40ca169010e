"""Plans: YAML, dictionaries and `--set` overrides to validated stages. No model is loaded here."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

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
    dtype: str = "auto"  # of the weights: auto, float32, bfloat16
    accelerate: dict[str, Any] = Field(default_factory=dict)  # arguments of accelerate.Accelerator
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    stages: list[Any]

    base: Path | None = Field(default=None, exclude=True)  # folder that relative paths start from


def load_plan(source: Any, overrides: Sequence[str] = ()) -> Plan:
    """A plan from a YAML file, a mapping or a Plan; every problem found is reported together."""
    if isinstance(source, Plan):
        return source
    base: Path | None = None
    if isinstance(source, str | Path):
        base = Path(source).parent
        source = _read_yaml(Path(source))
    if not isinstance(source, Mapping):
        raise ConfigError(f"a plan must be a mapping with model and stages, not {type(source).__name__}")
    raw = _copied(source)
    problems: list[str] = []
    raw["stages"] = _inherited(raw.get("stages"), problems)
    for override in overrides:
        _apply(raw, override, problems)
    stages = [_stage(entry, number, problems) for number, entry in enumerate(raw["stages"], 1)]
    try:
        plan = Plan.model_validate({**raw, "stages": stages, "base": base})
    except ValidationError as error:
        problems += _messages(error, "plan", Plan)
    if problems:
        raise ConfigError("the plan cannot be run:\n" + "\n".join(f"  - {line}" for line in problems))
    return plan


def plan_text(plan: Plan) -> str:
    """The resolved plan as YAML, every default visible; objects appear by their qualified names."""
    return yaml.safe_dump(_shown(plan), sort_keys=False, allow_unicode=True, width=100)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"plan {str(path)!r} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"plan {str(path)!r} is not YAML: {error}") from error


def _copied(source: Mapping[str, Any]) -> dict[str, Any]:
    """Containers copied, objects (models, data sets, functions) shared."""

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: copied(part) for key, part in value.items()}
        return [copied(part) for part in value] if type(value) is list else value

    return {key: copied(value) for key, value in source.items()}


def _inherited(entries: Any, problems: list[str]) -> list[Any]:
    """Stages with `like: NAME` start from that earlier stage's settings."""
    if not isinstance(entries, list) or not entries:
        problems.append("stages: a plan needs a list of at least one stage")
        return []
    done: list[Any] = []
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, Mapping) and "like" in entry:
            named = {e["name"]: e for e in done if isinstance(e, Mapping) and "name" in e}
            if entry["like"] not in named:
                known = ", ".join(named) or "none"
                problems.append(f"stage {number}: like: {entry['like']!r} names no earlier stage ({known})")
                continue
            own = {key: value for key, value in entry.items() if key != "like"}
            entry = _merged(copy.deepcopy(dict(named[entry["like"]])), own)
        done.append(entry)
    return done


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
    place[last] = yaml.safe_load(text)


def _step_into(place: Any, key: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(key, {})
    if isinstance(place, list):
        named = (entry for entry in place if isinstance(entry, dict) and entry.get("name") == key)
        by_number = place[int(key) - 1] if key.isdigit() and 0 < int(key) <= len(place) else None
        return next(named, by_number)
    return None


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
        return kind.model_validate({"name": entry["kind"], **entry})
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


def _shown(value: Any) -> Any:
    if isinstance(value, BaseModel):
        names = [n for n, f in type(value).model_fields.items() if not f.exclude]
        return {name: _shown(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _shown(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        if len(value) > 20:
            return f"<{len(value)} items>"
        return [_shown(part) for part in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value.value if isinstance(value, Enum) else value
    return str(value) if isinstance(value, Path) else _qualified_name(value)


def _qualified_name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"<{named.__module__}.{named.__qualname__}>"

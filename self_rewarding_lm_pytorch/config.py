"""Plans: YAML, dictionaries and `--set` overrides to validated stages. No model is loaded here."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from self_rewarding_lm_pytorch.data.readers import is_in_files
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.objects import beside
from self_rewarding_lm_pytorch.plans.expansion import expanded
from self_rewarding_lm_pytorch.plans.scaling import data_sources, plain_prompts, scaled_part, scaled_stage
from self_rewarding_lm_pytorch.plans.yaml import copied, read_yaml
from self_rewarding_lm_pytorch.stages import STAGES, stage_kind, stage_of
from self_rewarding_lm_pytorch.stages.adapter_settings import PlanAdapter
from self_rewarding_lm_pytorch.stages.alarm_settings import AlarmSettings
from self_rewarding_lm_pytorch.stages.base import GenerationSettings, Settings, StageConfig
from self_rewarding_lm_pytorch.stages.card_settings import ReportCardSettings
from self_rewarding_lm_pytorch.stages.chat_settings import ChatSettings
from self_rewarding_lm_pytorch.stages.push_settings import PushToHub
from self_rewarding_lm_pytorch.stages.tracker_settings import Trackers
from self_rewarding_lm_pytorch.training.device import Device


def _object(tokenizer: Any) -> Any:
    if isinstance(tokenizer, str | Path):
        raise ValueError(
            "a plan's model brings its own tokenizer; save the one you want into the model's folder "
            "(save_pretrained), or give it from Python"
        )
    return tokenizer


class Plan(Settings):
    """A whole run: a model, where everything goes, and the stages in order."""

    model: Any  # hub name, folder, module:factory, a run or RUN:STAGE; from Python also an nn.Module
    tokenizer: Annotated[Any, AfterValidator(_object)] = None  # from Python: a codec or a tokenizer
    chat: ChatSettings | None = None  # how prompts are put into chat: system text, template, reasoning
    seed: int = 0
    run: Annotated[Path, AfterValidator(Path.expanduser)] = Path("runs/run")
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"  # of the weights; auto: as they were saved
    trust_remote_code: bool = False  # whether code that the model's folder or hub name brings is run
    device: Device = "auto"  # auto, cpu, cuda, cuda:N or mps: of the model, and of judges and reward models
    accelerate: dict[str, Any] = Field(default_factory=dict)  # arguments of accelerate.Accelerator
    sharding: Literal["none", "full"] = "none"  # full: each of several processes trains a part of the weights
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    # Of a training's state; 0: after every step.
    save_every_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 600.0
    stages: list[Any]
    adapter: PlanAdapter = None  # LoRA or QLoRA in the place of the model's own weights
    report_card: ReportCardSettings | None = None  # how well the model judges, between stages
    trackers: Trackers = Field(default_factory=list)  # tensorboard, wandb, ...
    keep_last: Annotated[int, Field(ge=1)] | None = None  # finished stages whose checkpoints stay; null: all
    push_to_hub: PushToHub = None  # OWNER/NAME: where the last checkpoint goes when the run is done
    alarms: AlarmSettings = Field(default_factory=AlarmSettings)  # what makes the run warn, or stop
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0  # of all amounts of work; plans/scaling.py says which
    was_scaled_by: Annotated[float, Field(gt=0, le=1)] = 1.0  # of a resolved plan, whose amounts say it

    base: Path | None = Field(default=None, exclude=True)  # folder that relative paths start from


def load_plan(source: Any, overrides: Sequence[str] = ()) -> Plan:
    """A plan from a YAML file, a mapping or a Plan; every problem found is reported together."""
    if isinstance(source, Plan):
        return _made_in_python(source, overrides)
    base: Path | None = None
    if isinstance(source, str | Path):
        base = Path(source).parent
        source = read_yaml(Path(source))
    with beside(base):
        return _loaded(source, overrides, base)


def _loaded(source: Any, overrides: Sequence[str], base: Path | None) -> Plan:
    if not isinstance(source, Mapping):
        raise ConfigError(
            f"a plan must be a mapping with model and stages, not {type(source).__name__}; give a YAML file, "
            "a dictionary or a Plan"
        )
    raw = copied(dict(source))
    problems: list[str] = []
    expanded(raw, overrides, problems)
    _check_names(raw["stages"], problems)
    stages = [_stage(entry, number, problems) for number, entry in enumerate(raw["stages"], 1)]
    try:
        plan = Plan.model_validate({**raw, "stages": stages, "base": base})
    except ValidationError as error:
        problems += _messages(error, "plan", Plan)
    problems += [f"plan: {line}" for line in _odd_numbers(raw, Plan)]
    for key, wanted in (("model", "a hub name, a folder or module:factory"), ("run", "a folder to write to")):
        if key in raw and (raw[key] is None or raw[key] == ""):
            problems.append(f"plan: {key}={raw[key]!r} names nothing; give {wanted}")
    if problems:
        raise ConfigError("the plan cannot be run:\n" + "\n".join(f"  - {line}" for line in problems))
    return _scaled(plan)


def _scaled(plan: Plan) -> Plan:
    """The plan in small. Its scale is 1 again, so that a resolved plan read back is the same plan."""
    if plan.scale == 1:
        return plan
    update: dict[str, Any] = {"scale": 1.0, "was_scaled_by": plan.was_scaled_by * plan.scale}
    update["stages"] = [scaled_stage(stage, plan.scale) for stage in plan.stages]
    update["report_card"] = scaled_part(plan.report_card, "report_card", plan.scale)
    return plan.model_copy(update=update)


def _made_in_python(plan: Plan, overrides: Sequence[str]) -> Plan:
    """A Plan's stages are configs already; equal names are allowed, for nothing addresses them by name."""
    if overrides:
        raise ConfigError(f"a Plan object takes no overrides ({', '.join(overrides)}); change the object")
    problems = [] if plan.stages else ["stages: a plan needs a list of at least one stage"]
    plan.stages = [_stage(entry, number, problems) for number, entry in enumerate(plan.stages, 1)]
    if problems:
        raise ConfigError("the plan cannot be run:\n" + "\n".join(f"  - {line}" for line in problems))
    return _scaled(plan)


_LONGEST_NAME = 200  # file systems allow 255 for a name
_NOT_IN_NAMES = re.compile(r'[/\\:*?"<>|\x00-\x1f]|^[ .]|[ .]$')


def _check_names(entries: list[Any], problems: list[str]) -> None:
    """Stages of a plan are addressed by name, and their folders are called by it."""
    numbers: dict[str, list[int]] = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if isinstance(name, str):
            numbers.setdefault(name, []).append(number)
            if not name or _NOT_IN_NAMES.search(name) or len(name.encode()) > _LONGEST_NAME:
                problems.append(
                    f"stage {number}: name {name!r:.60} cannot be a folder's; leave out / \\ : * ? \" < > | "
                    f"and blanks and dots at its ends, and keep it below {_LONGEST_NAME} bytes"
                )
    for name, places in numbers.items():
        if len(places) > 1:
            which = " and ".join(map(str, places))
            problems.append(f"stages {which} are both named {name!r}; give each a name of its own")


def _stage(entry: Any, number: int, problems: list[str]) -> StageConfig | None:
    if isinstance(entry, StageConfig):
        entry.kind = entry.kind or type(entry).__name__
        entry.name = entry.name or entry.kind
        return entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str | type):
        problems.append(f"stage {number}: needs a kind, one of {', '.join(STAGES)}, or your own file.py:Name")
        return None
    where = f"stage {number} ({entry.get('name', entry['kind'])})"
    try:
        kind = stage_kind(entry["kind"])
        stage = stage_of(dict(entry))
    except ConfigError as error:
        problems.append(f"{where}: {error}")
        return None
    except ValidationError as error:
        problems += _messages(error, where, kind)
        return None
    problems += [f"{where}: {line}" for line in _odd_numbers(entry, kind)]
    return _with_data(stage, where, problems)


def _with_data(stage: StageConfig, where: str, problems: list[str]) -> StageConfig:
    """The stage with its prompts in a form that its reader takes; sources said wrongly are told."""
    for name, source in data_sources(stage):
        try:
            is_in_files(source)
        except DataError as error:
            problems.append(f"{where}: {name}: {error}")
            return stage
    return _with_plain_prompts(stage)


def _with_plain_prompts(stage: StageConfig) -> StageConfig:
    stopper, update = getattr(stage, "early_stopper", None), {}
    for part, name in ((stage, "prompts"), (stopper, "early_stopper")):
        prompts = getattr(part, "prompts", None)
        plain = plain_prompts(prompts)
        if plain is not prompts and isinstance(part, BaseModel):
            update[name] = plain if part is stage else part.model_copy(update={"prompts": plain})
    return stage.model_copy(update=update) if update else stage


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
            lines.append(f"{where}: {place} is missing; add `{problem['loc'][-1]}: ...`")
        else:
            said = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {place}={problem['input']!r:.80}: {said}")
    return lines


def _odd_numbers(values: Any, model: Any, path: str = "") -> Iterable[str]:
    """Of a plan's numbers: what pydantic lets pass and nobody means."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        field, place = model.model_fields.get(key), f"{path}.{key}" if path else str(key)
        kinds = _kinds(field.annotation) if field is not None else []
        part = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if part is not None:
            yield from _odd_numbers(value, part, place)
        elif isinstance(value, bool) and (int in kinds or float in kinds) and bool not in kinds:
            yield f"{place}={value}: a number is wanted, but YAML reads yes, no, on, off, true and false so"
        elif isinstance(value, float) and math.isinf(value) and float in kinds:
            yield f"{place}={value}: a finite number is wanted; leave the key out for its default"


def _kinds(annotation: Any) -> list[Any]:
    """The types within `Annotated`, `X | Y` and the like."""
    parts = get_args(annotation)
    return [kind for part in parts for kind in _kinds(part)] if parts else [annotation]


def _fields_at(model: Any, path: tuple[int | str, ...]) -> list[str]:
    for key in path:
        field = model.model_fields.get(key)
        model = field.annotation if field is not None else Settings
        model = next((part for part in get_args(model) if part is not type(None)), model)  # X | None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    fields = list(model.model_fields)
    train = model.model_fields.get("train")
    return fields + (list(train.annotation.model_fields) if train is not None and not path else [])

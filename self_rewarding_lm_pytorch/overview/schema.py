"""The JSON Schema of a plan, as people write it, for line editors and programs.

It is made from the classes that read a plan, so it has every key and its default, and what is written shorter
than it is read: training settings beside the stage's own, `like`, `iterations` and `{each: [...]}`, alarms as
one number. What takes more than a look at one key (files, names of stages, settings that exclude each other)
it leaves to the command `plan`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind

from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.overview.descriptions import class_description, field_description
from self_rewarding_lm_pytorch.plans.expansion import EACH, ITERATIONS
from self_rewarding_lm_pytorch.stages import STAGES
from self_rewarding_lm_pytorch.stages.alarm_settings import AlarmSetting
from self_rewarding_lm_pytorch.stages.base import StageConfig

Schema = dict[str, Any]

_DRAFT = "http://json-schema.org/draft-07/schema#"
_NOT_WRITTEN = ("tokenizer", "was_scaled_by")  # from Python alone; of resolved plans alone
_EACH: Schema = {
    "type": "object",
    "description": "A value for each iteration, in order.",
    "properties": {EACH: {"type": "array"}},
    "required": [EACH],
    "additionalProperties": False,
}
_ALARM: Schema = {
    "description": "A threshold, or what happens, or both.",
    "anyOf": [
        {"type": "number"},
        {"enum": ["warn", "stop", "off", False]},  # YAML reads off as false
        {
            "type": "object",
            "properties": {"threshold": {"type": "number"}, "then": {"enum": ["warn", "stop", "off", False]}},
            "additionalProperties": False,
        },
    ],
}


def plan_schema() -> Schema:
    """Of a plan in YAML. A new dictionary each time."""
    definitions: Schema = {}
    properties = _properties(Plan, definitions)
    for name in _NOT_WRITTEN:
        properties.pop(name, None)
    for name in ("model", "run"):
        properties[name] |= {"type": "string", "minLength": 1}
    stages: Schema = {}
    kinds = {kind: _stage(STAGES[kind], stages) for kind in STAGES}
    definitions |= {f"stage-{kind}": schema for kind, schema in kinds.items()}
    definitions |= {name: _with_each(schema) for name, schema in stages.items()}
    definitions |= {"each": _EACH, "stage": _any_stage(kinds)}
    properties["stages"] = {
        "type": "array",
        "minItems": 1,
        "items": {"$ref": "#/$defs/stage"},
        "description": "What is done, in order; each stage starts from the model of the one before it.",
    }
    return {
        "$schema": _DRAFT,
        "title": "A plan of self-rewarding-lm",
        "description": class_description(Plan),
        "type": "object",
        "properties": properties,
        "required": ["model", "stages"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _stage(kind: type[StageConfig], definitions: Schema) -> Schema:
    """One kind of stage, its training settings also beside its own."""
    own = _properties(kind, definitions, "in-stages-")
    needed = [name for name, field in kind.model_fields.items() if field.is_required() and name != "kind"]
    beside: Schema = {}
    train = kind.model_fields.get("train")
    if train is not None and isinstance(train.annotation, type) and issubclass(train.annotation, BaseModel):
        beside = _properties(train.annotation, definitions, "in-stages-")
    together = {name: _or_each(schema) for name, schema in {**beside, **own}.items()}
    together |= {
        "kind": {"const": kind.model_fields["kind"].default, "description": class_description(kind)},
        "name": {
            "type": "string",
            "minLength": 1,
            "description": "What the stage and its folder are called; default: its kind.",
        },
        "like": {
            "type": "string",
            "description": "An earlier stage's name, whose settings this one starts with.",
        },
        ITERATIONS: {
            "type": "integer",
            "minimum": 1,
            "maximum": 1000,
            "description": "So many stages, NAME-1 to NAME-N; {each: [...]} gives each its own value.",
        },
    }
    return {
        "type": "object",
        "description": class_description(kind),
        "properties": together,
        "additionalProperties": False,
        **({"anyOf": [{"required": ["like"]}, {"required": needed}]} if needed else {}),
    }


def _any_stage(kinds: dict[str, Schema]) -> Schema:
    """Told apart by `kind`; without one, `like` says it, and any kind's settings may stand there."""
    known: dict[str, list[Schema]] = {}
    for schema in kinds.values():
        for name, value in schema["properties"].items():
            said = known.setdefault(name, [])
            if value not in said:
                said.append(value)
    either = {name: said[0] if len(said) == 1 else {"anyOf": said} for name, said in known.items()}
    described = {name: class_description(STAGES[name]) for name in kinds}
    named: Schema = {
        "enum": list(kinds),
        "description": "\n".join(f"{name}: {text}" for name, text in described.items()),
    }
    return {
        "type": "object",
        "properties": {"kind": named},
        "anyOf": [{"required": ["kind"]}, {"required": ["like"]}],
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/stage-{kind}"},
            }
            for kind in kinds
        ]
        + [
            {
                "if": {"not": {"required": ["kind"]}},
                "then": {"properties": either, "additionalProperties": False},
            }
        ],
    }


def _or_each(schema: Schema) -> Schema:
    inner = {key: value for key, value in schema.items() if key not in ("default", "description", "title")}
    if not inner:
        return schema  # anything goes
    outer = {key: value for key, value in schema.items() if key not in inner}
    return {
        **outer,
        "anyOf": [*(inner["anyOf"] if set(inner) == {"anyOf"} else [inner]), {"$ref": "#/$defs/each"}],
    }


def _with_each(schema: Schema) -> Schema:
    if "properties" not in schema:
        return schema
    return {**schema, "properties": {name: _or_each(part) for name, part in schema["properties"].items()}}


class _Lenient(GenerateJsonSchema):
    """What only Python can give (functions, modules) has no schema of its own, and is left out of choices."""

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """Such a default is left out, which is what is wanted."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {"$comment": "from Python"}


def _properties(model: type[BaseModel], definitions: Schema, prefix: str = "") -> Schema:
    """The schemas of a model's fields; what they refer to goes into `definitions`."""
    made = _Lenient(ref_template=f"#/$defs/{prefix}{{model}}").generate(model.__pydantic_core_schema__)
    inner = made.pop("$defs", {})
    classes = {kind.__name__: kind for kind in _models_in(model)}
    for name, part in inner.items():
        definitions[f"{prefix}{name}"] = _tidied(part, classes.get(name))
    if definitions.get(f"{prefix}{AlarmSetting.__name__}"):
        definitions[f"{prefix}{AlarmSetting.__name__}"] = _ALARM
    whole = _tidied(made, model)
    fields: Schema = whole["properties"]
    return {name: part for name, part in fields.items() if not model.model_fields[name].exclude}


def _tidied(schema: Schema, model: type[BaseModel] | None) -> Schema:
    """Without titles, with descriptions from the sources; what only Python can give is gone from choices."""
    left = ("title", "required", "properties")
    kept = {key: _plain(value) for key, value in schema.items() if key not in left}
    if "properties" in schema:
        kept["properties"] = _plain(schema["properties"])
    if model is None:
        return kept
    if said := class_description(model):
        kept["description"] = said
    for name, part in kept.get("properties", {}).items():
        if said := field_description(model, name):
            kept["properties"][name] = {**part, "description": said}
    required = [name for name in schema.get("required", []) if name != "kind"]
    return {**kept, "required": required} if required and not issubclass(model, StageConfig | Plan) else kept


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value if not _is_from_python(part)]
    if not isinstance(value, dict):
        return value
    made = {key: _plain(part) for key, part in value.items() if key not in ("title", "$comment")}
    if "prefixItems" in made:  # draft 7's name for it
        made["items"] = made.pop("prefixItems")
    return made


def _is_from_python(value: Any) -> bool:
    return isinstance(value, dict) and value.get("$comment") == "from Python"


def _models_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models that its fields may hold, and those that theirs may."""
    for field in model.model_fields.values():
        for kind in _kinds(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield kind
                yield from _models_in(kind)


def _kinds(annotation: Any) -> list[Any]:
    parts = get_args(annotation)
    return [kind for part in parts for kind in _kinds(part)] if parts else [annotation]

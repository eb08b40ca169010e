"""Stages: one file each. A stage composes the rooms above and loops over no optimizer step itself."""

import inspect
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.objects import is_reference, load_object
from self_rewarding_lm_pytorch.registry import Registry
from self_rewarding_lm_pytorch.stages.base import StageConfig

_HERE = "self_rewarding_lm_pytorch.stages"

STAGES: Registry[type[StageConfig]] = Registry(
    "stage kind",
    {
        "sft": f"{_HERE}.sft:SFTStage",
        "dpo": f"{_HERE}.dpo:DPOStage",
        "spin": f"{_HERE}.spin:SPINStage",
        "self_reward": f"{_HERE}.self_reward:SelfRewardStage",
        "online": f"{_HERE}.online:OnlineStage",
        "external_reward": f"{_HERE}.external_reward:ExternalRewardStage",
        "meta_reward": f"{_HERE}.meta_reward:MetaRewardStage",
        "self_instruct": f"{_HERE}.self_instruct:SelfInstructStage",
    },
)

_WANTED = "a class of stages, derived from StageConfig (self_rewarding_lm_pytorch.stages.base) or one of ours"


def is_stage_kind(kind: Any) -> bool:
    """Whether a plan may say so: a name of ours, `file.py:Name`, `package.module:Name`, or a class."""
    return isinstance(kind, type) or (isinstance(kind, str) and (kind in STAGES or is_reference(kind)))


def stage_kind(kind: Any) -> type[StageConfig]:
    """The class of a plan's `kind`. Raises ConfigError for what is none."""
    if isinstance(kind, str) and not (kind not in STAGES and is_reference(kind)):
        return STAGES[kind]
    found = load_object(kind, what="stage kind", wanted=_WANTED) if isinstance(kind, str) else kind
    if not isinstance(found, type) or not issubclass(found, StageConfig):
        raise ConfigError(f"stage kind {kind!r} is {found!r:.80}; give {_WANTED}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f"stage kind {kind!r}: {found.__name__} has no method {missing}; write it")
    return found


def stage_of(entry: dict[str, Any]) -> StageConfig:
    """The stage that an entry of a plan describes. Raises ConfigError, and pydantic's ValidationError.

    One's own keeps the kind that the plan says, whatever its class is derived from.
    """
    kind = entry["kind"]
    found = stage_kind(kind)
    if isinstance(kind, str) and kind in STAGES:
        return found.model_validate(entry)
    stage = found.model_validate({key: value for key, value in entry.items() if key != "kind"})
    stage.kind = kind if isinstance(kind, str) else kind_name(kind)
    return stage


def kind_name(kind: Any) -> str:
    """What a stage is called that has no name: its kind, or its class's name."""
    if isinstance(kind, str) and kind not in STAGES and is_reference(kind):
        return kind.rpartition(":")[2]
    return kind.__name__ if isinstance(kind, type) else kind

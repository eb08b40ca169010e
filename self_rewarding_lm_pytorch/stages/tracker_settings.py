"""The plan's `trackers`: where metrics, results and samples go besides the run folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.registry import unknown_name
from self_rewarding_lm_pytorch.stages.base import Settings

_PACKAGES = {"comet_ml": "comet-ml", "dvclive": "dvclive", "tensorboard": "tensorboard"}
"""Tracker -> what pip calls its package, where that is another name."""


class TrackerSettings(Settings):
    """A tracker of accelerate's. In a plan it is a name, or {name: {options}}.

    options: passed on to the tracker as accelerate does (`wandb.init`, `trackio.init`, tensorboard's
    SummaryWriter); `project` is the project's name there. From Python a tracker of one's own, an instance of
    accelerate.tracking.GeneralTracker, may stand in the place of a name.
    """

    name: str
    project: str = "self-rewarding-lm"
    options: dict[str, Any] = Field(default_factory=dict)
    instance: Any = Field(default=None, exclude=True)


def _read(value: Any) -> Any:
    if isinstance(value, TrackerSettings):
        return value
    if not isinstance(value, str | Mapping):
        return _own(value)
    name: Any = value
    options: Any = {}
    if isinstance(value, Mapping):
        if "name" in value:
            return _known(dict(value))
        if len(value) != 1:
            raise ValueError("give each tracker an entry of its own: a name, or {name: {options}}")
        name, options = next((str(key), part) for key, part in value.items())
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"{name}: {options!r:.60} are no options; give {{{name}: {{option: value}}}}")
    rest = dict(options or {})
    settings = {"project": rest.pop("project")} if "project" in rest else {}
    return _known({"name": name, "options": rest, **settings})


def _known(values: dict[str, Any]) -> dict[str, Any]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # those registered by the user among them

    known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
    if values["name"] not in known:
        raise ValueError(unknown_name("tracker", str(values["name"]), known))
    return values


def _own(value: Any) -> Any:
    from accelerate.tracking import GeneralTracker

    if not isinstance(value, GeneralTracker):
        raise ValueError(
            f"a {type(value).__name__} is no tracker; give a name, {{name: {{options}}}}, or an instance of "
            "accelerate.tracking.GeneralTracker"
        )
    return {"name": value.name, "instance": value}


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


_ONE = [{"type": "string"}, {"type": "object"}]
_JSON_SCHEMA = {
    "anyOf": [{"type": "array", "items": {"anyOf": _ONE}}, *_ONE],
    "description": "Trackers: names (tensorboard, wandb, trackio, ...), or {name: {options}}.",
}
Trackers = Annotated[
    list[Annotated[TrackerSettings, BeforeValidator(_read)]],
    BeforeValidator(_listed),
    WithJsonSchema(_JSON_SCHEMA),
]
"""The plan's list; a single entry may stand alone."""


def check_trackers(trackers: list[TrackerSettings]) -> None:
    """Raises ConfigError where a tracker's library is not installed, or one is named twice."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    names = [tracker.name for tracker in trackers]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"trackers: {name} is named twice, and each step would be there twice; remove one"
            )
    builtin, available = {str(kind) for kind in LoggerType}, {str(kind) for kind in get_available_trackers()}
    for tracker in trackers:
        is_there = tracker.name in available or tracker.name not in builtin
        if tracker.name == "tensorboard":  # accelerate takes tensorboardX as well
            is_there = any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))
        if tracker.instance is None and tracker.name in LOGGER_TYPE_TO_CLASS and not is_there:
            raise ConfigError(
                f"trackers: {tracker.name} is not installed, so nothing would be logged there; "
                f"pip install {_PACKAGES.get(tracker.name, tracker.name)}, or leave it out (metrics.jsonl in "
                "the run folder has every logged step in any case)"
            )

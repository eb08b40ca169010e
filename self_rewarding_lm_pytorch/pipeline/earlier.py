"""Models of earlier runs that a plan names: which they are, and what does not come along with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.of_runs import INITIAL, FoundModel, found_model, model_source
from self_rewarding_lm_pytorch.objects import folder_near
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.run_folder import RunFolder
from self_rewarding_lm_pytorch.stages.chat_settings import ChatSettings

_NAMING = ("model", "writer")
"""Settings whose value may be a model's name, wherever in a plan they are."""


def earlier_models(plan: Plan, folder: RunFolder, plan_text: str) -> dict[str, FoundModel]:
    """The models of runs that the plan and its unfinished stages name, by what they call them.

    A run that has begun stays with the folders that its manifest notes, as long as they are there. Raises
    ConfigError for a run without a model, and for a plan whose model its own run would write over.
    """
    resolved = yaml.safe_load(plan_text)
    ahead = [stage for n, stage in enumerate(resolved["stages"], 1) if not folder.is_trained(n)]
    parts = [{name: resolved[name] for name in ("model", "report_card")}, *ahead]
    known = folder.manifest.get("models", {}) if folder.has_begun else {}
    found = {}
    for name in dict.fromkeys(_names(parts)):
        noted = known.get(name, {}).get("checkpoint")
        one = _began_with(name, Path(noted)) if noted is not None else None
        one = one or earlier_model(name, plan.base)
        if one is not None:
            found[name] = one
    if isinstance(plan.model, str | Path):
        refuse_own_model(plan, found.get(str(plan.model)))
    return found


def earlier_model(name: str, base: Path | None) -> FoundModel | None:
    """The model of a run or stage, with the folder that is loaded; None for any other name."""
    found = found_model(name, base)
    if found is None or not found.which:
        return None
    place = Path(model_source(name, base))
    return replace(found, place=place.resolve() if place.is_dir() else None)


def _began_with(name: str, place: Path) -> FoundModel | None:
    found = found_model(str(place)) if place.is_dir() else None
    stage = f"stage {place.parent.name}" if place.name == "checkpoint" else str(place)
    which = f"the model of {stage}, with which this run began"
    return None if found is None else replace(found, name=name, which=which)


def folders(earlier: Mapping[str, FoundModel]) -> dict[str, Path]:
    """Where they are; those of the hub or of a factory are left out."""
    return {name: found.place for name, found in earlier.items() if found.place is not None}


def refuse_own_model(plan: Plan, found: FoundModel | None) -> None:
    """Raises ConfigError where a run would begin from a model in the folder that it writes to."""
    named = Path(folder_near(str(plan.model), plan.base))
    place = named if found is None or found.place is None else found.place
    own = (plan.run.resolve() / name for name in ("stages", INITIAL))
    if place.is_dir() and any(place.resolve().is_relative_to(folder) for folder in own):
        raise ConfigError(
            f"model {str(plan.model)!r} is in {plan.run}, the folder that this run writes to, where its own "
            "stages would take that model's place; name another folder (run: ...)"
        )


def say_earlier(plan: Plan, earlier: Mapping[str, FoundModel], reporter: Reporter) -> None:
    """Which models were taken, and what of the plan's own does not come along."""
    for found in earlier.values():
        reporter.say(found.said)
    if (fault := chat_left_behind(plan, earlier.get(str(plan.model)))) is not None:
        reporter.warn(fault)


def chat_left_behind(plan: Plan, found: FoundModel | None) -> str | None:
    """Says that the run of the plan's model put prompts into chat in a way that its folder does not hold.

    A template is with the tokenizer, where the folder has one. None: there is nothing to say, as for a plan
    with a `chat` of its own.
    """
    if plan.chat is not None or found is None or not found.plan.get("chat"):
        return None
    unsaid = ChatSettings().model_dump(mode="json")
    left = {key: value for key, value in found.plan["chat"].items() if value != unsaid.get(key)}
    if found.is_whole:
        left.pop("template", None)
    if not left:
        return None
    shown = yaml.safe_dump(left, default_flow_style=True, allow_unicode=True, width=10_000).strip()
    return (
        f"model {found.name}: its run put prompts into chat by chat: {shown}, which is not taken over, and "
        "this plan has no chat; add those settings to go on in the same way, or chat: {} if this is meant"
    )


def _names(value: Any) -> Iterator[str]:
    """Models' names in a part of a resolved plan; what a server calls its model is none."""
    if isinstance(value, list):
        for part in value:
            yield from _names(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            if key in _NAMING and isinstance(part, str):
                yield part
            elif key != "server":
                yield from _names(part)

"""How a plan says which alarms it wants: `alarms: {tie_rate: 0.9, duplicates: off, ...}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from self_rewarding_lm_pytorch.alarms import RULES, Limit
from self_rewarding_lm_pytorch.stages.base import Settings

_ELSEWHERE = {
    "not_finite": "a loss or gradient that is not finite always stops a run, as going on would destroy the "
    "weights; leave this key out",
    "judge_agreement": "the report card's guard watches it; set that, for example report_card: {data: FILE, "
    "guard: {metric: spearman, max_fall: 0.03, then: stop}}",
}


class AlarmSetting(Settings):
    """One alarm: the value at which it speaks, and what then happens.

    A plan may also give a number (the threshold alone), or warn, stop or off alone; what it leaves out is
    the default of that alarm.
    """

    threshold: float
    then: Literal["warn", "stop", "off"]


def _default(kind: str) -> Any:
    rule = RULES[kind]
    return Field(default_factory=lambda: AlarmSetting(threshold=rule.threshold, then=rule.then))


class AlarmSettings(Settings):
    """What makes a run warn or stop. Shares are 0 to 1; `alarms.RULES` has the defaults and their reasons.

    Each counts over a stage, is silent until enough has been counted, and speaks once in a stage. No alarm
    changes a result, so a run may be continued with others.
    """

    parse_rate: AlarmSetting = _default("parse_rate")  # share of votes with a score; below
    tie_rate: AlarmSetting = _default("tie_rate")  # share of visits whose scores are all equal; above
    score_collapse: AlarmSetting = _default("score_collapse")  # the commonest score's share; above
    # Of the pairs asked for, the share that the search comes to; of visits, where none are asked for; below.
    pair_yield: AlarmSetting = _default("pair_yield")
    chosen_logprob: AlarmSetting = _default("chosen_logprob")  # its fall, in nats per token; above
    length_growth: AlarmSetting = _default("length_growth")  # ratio to the former stage of the kind; above
    never_ends: AlarmSetting = _default("never_ends")  # share of candidates cut off by length; above
    duplicates: AlarmSetting = _default("duplicates")  # share of candidates equal to another; above

    def limits(self) -> dict[str, Limit]:
        """The alarms that are not off, by kind."""
        return {
            kind: Limit(setting.threshold, setting.then)
            for kind, setting in self
            if isinstance(setting, AlarmSetting) and setting.then != "off"
        }

    @model_validator(mode="before")
    @classmethod
    def _elsewhere(cls, given: Any) -> Any:
        named = [kind for kind in _ELSEWHERE if isinstance(given, Mapping) and kind in given]
        if named:
            raise ValueError("; ".join(f"{kind}: {_ELSEWHERE[kind]}" for kind in named))
        return given

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, given: Any, info: ValidationInfo) -> Any:
        """A setting with both its parts."""
        kind = str(info.field_name)
        if isinstance(given, AlarmSetting):
            given = given.model_dump()
        elif not isinstance(given, Mapping):
            given = _short(given)
        if given.get("then") is False:  # YAML reads off as false
            given = {**given, "then": "off"}
        rule = RULES[kind]
        threshold = given.get("threshold", rule.threshold)
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not is_number or not rule.lowest <= threshold <= rule.highest or math.isinf(threshold):
            bounds = f"from {rule.lowest:g} to {rule.highest:g}"
            if math.isinf(rule.highest):
                bounds = f"of {rule.lowest:g} or more"
            raise ValueError(f"the threshold of {kind} is a number {bounds}, not {threshold!r:.40}")
        return {"then": rule.then, **given, "threshold": threshold}


def _short(given: Any) -> dict[str, Any]:
    if given is False or given in ("warn", "stop", "off"):
        return {"then": given}
    if isinstance(given, int | float) and not isinstance(given, bool):
        return {"threshold": given}
    raise ValueError("give a number (the threshold), warn, stop, off, or {threshold: NUMBER, then: warn}")

"""Alarms as a plan says them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from self_rewarding_lm_pytorch.alarms import RULES, Limit
from self_rewarding_lm_pytorch.config import Plan, load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.plans.text import plan_text
from self_rewarding_lm_pytorch.stages.alarm_settings import AlarmSettings
from tests.stages import worlds

DEFAULTS = {kind: Limit(rule.threshold, rule.then) for kind, rule in RULES.items()}


def plan(folder: Path, alarms: Any = None, overrides: tuple[str, ...] = ()) -> Plan:
    changes = {} if alarms is None else {"alarms": alarms}
    return load_plan(worlds.plan(folder, "seed", **changes), overrides)


def test_a_plan_that_says_nothing_has_every_alarm_as_a_warning(tmp_path: Path) -> None:
    assert plan(tmp_path).alarms.limits() == DEFAULTS
    assert set(AlarmSettings.model_fields) == set(RULES)


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        (0.9, Limit(0.9, "warn")),
        (1, Limit(1, "warn")),
        ("stop", Limit(0.8, "stop")),
        ("off", None),
        (False, None),  # as YAML reads off
        ({"then": "stop"}, Limit(0.8, "stop")),
        ({"threshold": 0.5}, Limit(0.5, "warn")),
        ({"threshold": 0.5, "then": "stop"}, Limit(0.5, "stop")),
        ({"threshold": 0.5, "then": False}, None),
    ],
)
def test_an_alarm_is_a_number_a_word_or_both(tmp_path: Path, given: Any, limit: Limit | None) -> None:
    expected = {kind: value for kind, value in {**DEFAULTS, "tie_rate": limit}.items() if value}
    assert plan(tmp_path, {"tie_rate": given}).alarms.limits() == expected


def test_the_resolved_plan_shows_every_threshold_and_reads_back_the_same(tmp_path: Path) -> None:
    first = plan(tmp_path, {"tie_rate": 0.9, "duplicates": "off", "parse_rate": {"then": "stop"}})
    text = plan_text(first)
    shown = yaml.safe_load(text)["alarms"]
    assert shown["tie_rate"] == {"threshold": 0.9, "then": "warn"}
    assert shown["duplicates"] == {"threshold": 0.5, "then": "off"}
    assert shown["chosen_logprob"] == {"threshold": 1.0, "then": "warn"}
    again = AlarmSettings.model_validate(shown)
    assert again.limits() == first.alarms.limits()


@pytest.mark.parametrize(
    ("overrides", "limit"),
    [
        (("alarms.tie_rate=off",), None),
        (("alarms.tie_rate=0.7",), Limit(0.7, "warn")),
        (("alarms.tie_rate.then=stop",), Limit(0.8, "stop")),
        (("alarms.tie_rate=stop",), Limit(0.8, "stop")),
    ],
)
def test_the_command_line_sets_them(tmp_path: Path, overrides: tuple[str, ...], limit: Limit | None) -> None:
    assert plan(tmp_path, overrides=overrides).alarms.limits().get("tie_rate") == limit


@pytest.mark.parametrize(
    ("alarms", "message"),
    [
        ({"tie_rat": 0.5}, "unknown key 'alarms.tie_rat'; did you mean 'tie_rate'"),
        ({"tie_rate": {"treshold": 1}}, "unknown key 'alarms.tie_rate.treshold'; did you mean 'threshold'"),
        ({"tie_rate": {"then": "halt"}}, "alarms.tie_rate.then='halt'.*'warn', 'stop' or 'off'"),
        ({"tie_rate": 1.5}, "threshold of tie_rate is a number from 0 to 1, not 1.5"),
        ({"tie_rate": "often"}, "tie_rate='often'.*give a number .* warn, stop, off"),
        ({"tie_rate": True}, "tie_rate=True.*give a number"),
        ({"tie_rate": [0.5]}, "give a number"),
        ({"length_growth": 0.5}, "threshold of length_growth is a number of 1 or more, not 0.5"),
        ({"chosen_logprob": float("inf")}, "threshold of chosen_logprob is a number of 0 or more, not inf"),
        ({"chosen_logprob": float("nan")}, "threshold of chosen_logprob is a number of 0 or more, not nan"),
        ({"tie_rate": {"threshold": "0.5"}}, "threshold of tie_rate is a number from 0 to 1, not '0.5'"),
        ({"not_finite": "off"}, "always stops a run.*leave this key out"),
        ({"judge_agreement": 0.1}, "report card's guard watches it.*guard: {metric: spearman"),
        (0.5, "alarms=0.5"),
    ],
)
def test_a_wrong_alarm_is_refused_with_the_plan(tmp_path: Path, alarms: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path / "run", alarms)
    assert not (tmp_path / "run").exists()

"""The schema of a plan says yes to every plan that is shipped, and no to what the plan's reader refuses."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from self_rewarding_lm_pytorch.config import Plan, load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.overview.descriptions import field_description
from self_rewarding_lm_pytorch.overview.schema import plan_schema
from self_rewarding_lm_pytorch.plans.recipe_texts import recipe_names, recipe_text
from self_rewarding_lm_pytorch.plans.yaml import parsed_yaml
from self_rewarding_lm_pytorch.stages import STAGES
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.sft import SupervisedSettings

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).resolve().parents[2]
SFT = {"kind": "sft", "data": "d.jsonl"}


@cache
def validator() -> Any:
    kind = jsonschema.validators.validator_for(plan_schema())
    kind.check_schema(plan_schema())
    return kind(plan_schema())


def faults(plan: Any) -> list[str]:
    return [error.message for error in validator().iter_errors(plan)]


def blocks() -> dict[str, str]:
    """Every block of YAML in the documentation, by where it stands."""
    pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
    found = {}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"```yaml\n(.*?)```", text, re.DOTALL):
            found[f"{page.name}, line {text[: match.start()].count(chr(10)) + 1}"] = match[1]
    return found


def parts(text: str) -> list[Any]:
    """The block; or its entries one by one, where it shows several ways to say the same key."""
    try:
        return [parsed_yaml(text)]
    except yaml.constructor.ConstructorError:
        return [parsed_yaml(entry) for entry in re.split(r"\n(?=[a-z])", text.strip())]


def whole(part: Any) -> Any:
    """A plan that holds what a page shows of one: stages, a stage's settings, or some of the plan's."""
    if isinstance(part, list):
        return {"model": "m", "stages": part}
    if set(part) <= set(Plan.model_fields):
        return {"model": "m", "stages": [SFT], **part}
    return {"model": "m", "stages": [SFT, {"kind": "self_reward", "prompts": "p.jsonl", **part}]}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name: str) -> None:
    assert faults(parsed_yaml(recipe_text(name))) == []


def test_what_the_starter_offers_in_comments_is_valid_too() -> None:
    offered = re.sub(r"^( *)# (accelerate|adapter|- )", r"\1\2", recipe_text("starter"), flags=re.MULTILINE)
    plan = parsed_yaml(offered)
    assert {"accelerate", "adapter"} <= set(plan)
    assert [stage["name"] for stage in plan["stages"]] == ["seed", "first", "second"]
    assert faults(plan) == []
    assert load_plan(plan).stages[0].kind == "sft"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_valid(path: Path) -> None:
    assert faults(parsed_yaml(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("place", blocks())
def test_every_block_of_the_documentation_is_valid(place: str) -> None:
    assert [fault for part in parts(blocks()[place]) for fault in faults(whole(part))] == []


@pytest.mark.parametrize(
    "plan",
    [
        {"stages": [SFT]},
        {"model": "m"},
        {"model": "m", "stages": []},
        {"model": "m", "stages": [SFT], "sed": 1},
        {"model": "m", "stages": [{"kind": "sf", "data": "d"}]},
        {"model": "m", "stages": [{"data": "d"}]},
        {"model": "m", "stages": [{"kind": "dpo"}]},
        {"model": "m", "stages": [{**SFT, "learning_rat": 1e-6}]},
        {"model": "m", "stages": [{**SFT, "learning_rate": -1}]},
        {"model": "m", "stages": [{**SFT, "train": {"epochs": 0}}]},
        {"model": "m", "stages": [{**SFT, "num_pairs": 3}]},
        {"model": "m", "stages": [{"kind": "self_reward", "prompts": "p", "judge": {"vots": 3}}]},
        {"model": "m", "stages": [{"kind": "self_reward", "prompts": "p", "judge": {"mode": "sample"}}]},
        {"model": "m", "stages": [SFT], "alarms": {"tie_rate": "sometimes"}},
        {"model": "m", "stages": [SFT], "alarms": {"ties": 0.5}},
        {"model": "m", "stages": [SFT], "dtype": "float16"},
        {"model": "m", "stages": [SFT], "scale": 2},
        {"model": "m", "stages": [SFT, {"like": "sft", "nonsense": 1}]},
        {"model": "", "stages": [SFT]},
        {"model": "m", "stages": [SFT], "trackers": 3},
        {"model": "m", "stages": [SFT], "keep_last": 0},
        {"model": "m", "stages": [SFT], "device": 1},
        {"model": "m", "stages": [SFT], "adapter": {"rank": 8}},
        {"model": "m", "stages": [SFT], "push_to_hub": {"name": "me/x"}},
        {"model": "m", "stages": [SFT], "chat": {"sytem": "be brief"}},
    ],
    ids=str,
)
def test_what_the_reader_refuses_the_schema_refuses(plan: dict[str, Any]) -> None:
    assert faults(plan)
    with pytest.raises(ConfigError):
        load_plan(plan)


@pytest.mark.parametrize(
    "stage",
    [
        {**SFT, "learning_rate": 1e-6, "train": {"epochs": 2}},
        {"like": "sft", "epochs": 2},
        {**SFT, "name": "many", "iterations": 2, "learning_rate": {"each": [1e-6, 1e-7]}},
        {"kind": "self_reward", "prompts": "p", "iterations": 2, "judge": {"votes": {"each": [1, 3]}}},
        {"kind": "self_reward", "prompts": {"made_by": "x"}, "judge": {"score_range": [0, 5], "top_k": 3}},
        {"kind": "spin", "data": "d", "preset": "paper"},
        {"kind": "dpo", "data": "d", "loss": {"dpo": 1, "nll": 0.2}},
        {"kind": "external_reward", "prompts": ["a.txt", "b.txt"], "reward": "rewards.py:score"},
    ],
    ids=str,
)
def test_what_a_plan_may_be_short_for_is_valid(stage: dict[str, Any]) -> None:
    assert faults({"model": "m", "stages": [SFT, stage]}) == []


@pytest.mark.parametrize("alarm", [0.9, "off", False, {"threshold": 0.5, "then": "stop"}, {"then": "warn"}])
def test_alarms_may_be_short(alarm: Any) -> None:
    plan = {"model": "m", "stages": [SFT], "alarms": {"tie_rate": alarm}}
    assert faults(plan) == []
    load_plan(plan)


@pytest.mark.parametrize(
    "trackers", ["tensorboard", {"wandb": {"project": "p"}}, ["tensorboard", {"wandb": {}}], []], ids=str
)
def test_trackers_may_be_short(trackers: Any) -> None:
    plan = {"model": "m", "stages": [SFT], "trackers": trackers}
    assert not faults(plan)
    load_plan(plan)


def test_every_kind_and_every_key_of_it_is_there_with_its_default() -> None:
    definitions = plan_schema()["$defs"]
    for kind in STAGES:
        own = definitions[f"stage-{kind}"]["properties"]
        train = STAGES[kind].model_fields.get("train")
        beside = set(train.annotation.model_fields) if train is not None else set()  # type: ignore[union-attr]
        assert set(own) == set(STAGES[kind].model_fields) | beside | {"like", "iterations"}
    assert definitions["stage-self_reward"]["properties"]["learning_rate"]["default"] == 1e-6
    assert definitions["stage-sft"]["properties"]["learning_rate"]["default"] == 5.5e-6
    assert definitions["stage-sft"]["properties"]["kind"]["const"] == "sft"


def test_descriptions_come_from_comments_docstrings_and_base_classes() -> None:
    assert field_description(SupervisedSettings, "batch_size") == "items in one optimizer step, in all"
    assert field_description(SupervisedSettings, "epochs") == ""
    assert field_description(JudgeSettings, "labels").startswith("what a pairwise judge answers where")
    assert field_description(Plan, "save_every_seconds").startswith("Of a training's state")
    shown = plan_schema()["$defs"]["stage-sft"]["properties"]
    assert shown["batch_size"]["description"] == "items in one optimizer step, in all"
    template = field_description(JudgeSettings, "template")
    assert "prompt and response" in template, "also what goes on in the next line"

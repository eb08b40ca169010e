"""`scale`: the amounts of work of a plan, multiplied; everything else as it was."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.config import Plan, load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.plans.scaling import scaled_stage
from self_rewarding_lm_pytorch.plans.text import plan_text
from self_rewarding_lm_pytorch.stages import STAGES
from self_rewarding_lm_pytorch.stages.base import StageConfig
from self_rewarding_lm_pytorch.stages.self_reward import SelfRewardStage
from tests.stages import worlds

SCALES = st.integers(1, 1000).map(lambda thousandths: thousandths / 1000)
AMOUNTS = st.integers(1, 20_000)

FULL: list[dict[str, Any]] = [
    {
        "kind": "sft",
        "data": "d.jsonl",
        "valid_data": ["v.csv", "w.csv"],
        "num_steps": 700,
        "warmup_steps": 100,
    },
    {
        "kind": "self_reward",
        "prompts": "p.jsonl",
        "num_pairs": 3964,
        "candidates": {"num": 4},
        "judge": {"votes": 11},
        "replay": "hub:a/b#limit=500",
        "train": {"batch_size": 32, "epochs": 10, "early_stop_every": 200, "checkpoint_every": 150},
    },
    {
        "kind": "spin",
        "data": "hub:a/b",
        "per_iteration": [{"num_steps": 90}, {"beta": 5.0}],
        "num_iterations": 2,
    },
    {
        "kind": "online",
        "prompts": {"file": "p.jsonl", "skip": 15, "limit": 10},
        "reward": "r.py:f",
        "batch_size": 128,
    },
    {"kind": "external_reward", "prompts": [f"p{i}" for i in range(30)], "reward": "r.py:f"},
]


def plan(scale: float | None = None) -> Plan:
    extra = {} if scale is None else {"scale": scale}
    entries = [{"name": f"s{number}", **entry} for number, entry in enumerate(FULL)]
    return load_plan({"model": "m", "stages": entries, **extra})


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """Every number of a resolved plan by its path."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in numbers(part, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {k: v for i, part in enumerate(value) for k, v in numbers(part, f"{path}.{i}").items()}
    return {path: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def test_without_a_scale_and_with_scale_one_a_plan_is_as_it_was() -> None:
    assert plan_text(plan()) == plan_text(plan(1.0))
    stage = plan().stages[1]
    assert scaled_stage(stage, 1.0) is stage


def test_amounts_shrink_and_rates_stay() -> None:
    sft, own, spin, online, outside = plan(0.1).stages
    assert (sft.train.num_steps, sft.train.warmup_steps, sft.train.log_every) == (70, 10, 1)
    assert sft.data == {"file": "d.jsonl", "share": 0.1}
    assert sft.valid_data == [{"file": "v.csv", "share": 0.1}, {"file": "w.csv", "share": 0.1}]
    assert sft.train.learning_rate == 5.5e-6
    assert (own.num_pairs, own.prompts) == (397, "p.jsonl"), "as many pairs are looked for as it says"
    assert own.replay == {"hub": "a/b", "limit": 50}
    assert (own.candidates.num, own.judge.votes, own.train.epochs, own.train.batch_size) == (4, 11, 10, 32)
    assert (own.train.early_stop_every, own.train.checkpoint_every) == (20, 15)
    assert spin.data == {"hub": "a/b", "share": 0.1}
    assert (spin.per_iteration[0]["num_steps"], spin.per_iteration[1]["beta"]) == (9, 5.0)
    assert (spin.num_iterations, spin.train.beta) == (2, 0.1)
    assert online.prompts == "file:p.jsonl#skip=1&limit=1"
    assert online.train.batch_size == 1, "no larger than the prompts it has"
    assert (outside.num_prompts, len(outside.prompts)) == (3, 30)


@given(SCALES, AMOUNTS)
def test_an_amount_is_rounded_up_and_never_nothing(scale: float, amount: int) -> None:
    stage = SelfRewardStage(prompts=["p"], num_pairs=amount)
    exact = math.ceil(Fraction(str(scale)) * amount)
    assert scaled_stage(stage, scale).num_pairs == max(1, exact)
    assert stage.num_pairs == amount, "the stage it was made from is left alone"


@settings(max_examples=40, deadline=None)
@given(SCALES, SCALES)
def test_a_larger_scale_never_does_less_and_no_amount_falls_to_nothing(one: float, other: float) -> None:
    low, high = sorted((one, other))
    whole, few, many = (numbers(yaml.safe_load(plan_text(plan(s)))) for s in (1.0, low, high))
    assert {path for path in whole if whole[path] > 0} <= {path for path in few if few[path] > 0}
    for path in set(few) & set(many) - {".was_scaled_by"}:
        assert few[path] <= many[path] or path.endswith("share"), path
    for path in set(whole) & set(few) - {".was_scaled_by"}:
        assert few[path] <= whole[path], path


@given(SCALES, st.integers(0, 20), st.integers(1, 5000))
def test_slices_of_a_set_stay_apart_and_within_it_where_they_can(scale: float, place: int, size: int) -> None:
    """Slice after slice of one made set of prompts, of which as large a share is made."""
    online = load_plan(
        {
            "model": "m",
            "scale": scale,
            "stages": [
                {
                    "kind": "online",
                    "prompts": {"file": "p.jsonl", "skip": place * size, "limit": size},
                    "reward": "r",
                }
            ],
        }
    ).stages[0]
    said = dict(part.split("=") for part in online.prompts.partition("#")[2].split("&"))
    made = max(1, math.ceil(Fraction(str(scale)) * size * (place + 1)))
    assert int(said.get("skip", 0)) + int(said["limit"]) <= made


def test_a_resolved_plan_read_back_is_not_scaled_again() -> None:
    resolved = plan_text(plan(0.1))
    shown = yaml.safe_load(resolved)
    assert (shown["scale"], shown["was_scaled_by"]) == (1.0, 0.1)
    shown["stages"] = shown["stages"][:4]  # the last has its prompts in memory
    assert yaml.safe_load(plan_text(load_plan(shown))) == shown


def test_a_plan_object_is_scaled_once() -> None:
    given_plan = Plan(model="m", scale=0.5, stages=[SelfRewardStage(prompts=["p"], num_pairs=10)])
    once = load_plan(given_plan)
    assert once.stages[0].num_pairs == load_plan(once).stages[0].num_pairs == 5


@pytest.mark.parametrize("scale", [0, -1, 1.5, "small"])
def test_a_scale_is_a_share(scale: Any) -> None:
    with pytest.raises(ConfigError, match=f"plan: scale={scale!r}"):
        plan(scale)


def test_scale_can_be_set_and_iterations_are_scaled_one_by_one() -> None:
    entry = {"kind": "self_reward", "prompts": "p", "iterations": 2, "num_pairs": {"each": [3964, 6942]}}
    made = load_plan({"model": "m", "stages": [entry]}, ["scale=0.002"])
    assert [stage.num_pairs for stage in made.stages] == [8, 14]
    assert [stage.train.batch_size for stage in made.stages] == [8, 14]


def test_what_is_measured_and_judged_shrinks_too_and_two_prompts_stay_where_some_are_held_out() -> None:
    stopper = {"kind": "win_rate", "prompts": {"file": "v.jsonl", "skip": 9}, "reward": "r.py:f"}
    made = load_plan(
        {
            "model": "m",
            "scale": 0.01,
            "report_card": {"data": "judged.jsonl", "num": 541},
            "stages": [
                {"kind": "sft", "name": "a", "judge_data": {"data": "judged.jsonl"}},
                {"kind": "sft", "name": "b", "judge_data": {"data": "judged.jsonl", "num_prompts": 90}},
                {"kind": "dpo", "data": "pairs.jsonl", "early_stopper": stopper},
            ],
        }
    )
    whole, counted, stopped = made.stages
    assert (made.report_card.num, made.report_card.data) == (6, "judged.jsonl")
    assert whole.judge_data.data == {"file": "judged.jsonl", "share": 0.01}
    assert (counted.judge_data.num_prompts, counted.judge_data.data) == (2, "judged.jsonl")
    assert (stopped.early_stopper.num, stopped.early_stopper.prompts) == (3, "file:v.jsonl#skip=9")
    assert stopped.train.early_stop_every == 2


def test_every_setting_that_counts_something_is_scaled_or_left_on_purpose() -> None:
    """A new stage's amounts are to be thought of here."""
    left = {"num_iterations", "sample_every", "shard_size", "max_seq_len", "max_prompt_tokens", "min_words"}
    left |= {"max_words", "shots", "generated_shots", "max_new_tokens", "prompts_per_attempt", "top_k"}
    left |= {"max_contaminated", "max_item_tokens"}
    scaled = {"num_pairs", "num_prompts", "num", "max_attempts"}
    for kind in STAGES:
        fields = STAGES[kind].model_fields
        counts = {name for name, field in fields.items() if "int" in str(field.annotation)}
        assert counts <= scaled | left, f"{kind}: {counts - scaled - left}"


def test_a_small_run_reads_the_first_so_many_items_and_the_batch_fits(tmp_path: Path) -> None:
    names = ("seed", "own", "live")
    made = worlds.plan(tmp_path / "run", *names, scale=0.4)
    loaded = load_plan(made)
    assert isinstance(loaded.stages[0], StageConfig)
    summary = run(loaded, reporter=worlds.QUIET)
    assert summary["status"] == "completed"
    seed, own, live = summary["stages"]
    assert seed["metrics"]["num_steps"] == 2
    assert own["num_pairs"] == 2
    assert live["yield"]["prompts"] == 3, "of six prompts"

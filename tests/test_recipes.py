"""The recipes say the papers' numbers, and each runs from end to end in the demo's small world."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from self_rewarding_lm_pytorch.config import Plan, load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.overview.plan import overview
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.plans.recipe_texts import recipe_names, recipe_summary, recipe_text
from self_rewarding_lm_pytorch.plans.text import plan_text
from self_rewarding_lm_pytorch.plans.yaml import parsed_yaml
from tests.recipe_worlds import small_recipe
from tests.stages.worlds import QUIET

NAMES = ["interleaved", "meta-rewarding-paper", "oaif", "self-rewarding-paper", "spin-paper", "spin-repo"]
SFT = {
    "train.batch_size": 16,
    "train.learning_rate": 5.5e-6,
    "train.end_learning_rate": 1.1e-6,
    "train.schedule": "cosine",
    "train.dropout": 0.1,
}
JUDGE_DATA = {
    "judge_data.data": "hub:OpenAssistant/oasst1",
    "judge_data.held_out": 0.25,
    "judge_data.agree": "order",
}
AIFT = {
    "candidates.num": 4,
    "candidates.temperature": 0.7,
    "candidates.top_p": 0.9,
    "judge.votes": 3,
    "judge.temperature": 0.7,
    "judge.top_p": 0.9,
    "judge.score_range": [0, 5],
    "judge.mode": "sampled",
    "pairing.rho": 0.0,
    "train.loss": "dpo",
    "train.beta": 0.1,
    "train.reference": "stage_start",
    "train.batch_size": 16,
    "train.learning_rate": 1e-6,
    "train.end_learning_rate": 1e-7,
    "train.dropout": 0.1,
    "train.early_stop_every": 200,
    "train.checkpoint_every": 200,
    "early_stopper.kind": "win_rate",
    "early_stopper.num": 253,
    "early_stopper.judge.mode": "pairwise",
}
NEW_PROMPTS = {
    "kind": "self_instruct",
    "writer": "meta-llama/Llama-2-70b-chat-hf",
    "shots": 8,
    "generated_shots": 2,
    "temperature": 0.6,
    "top_p": 0.9,
    "similarity": "rouge_l",
}
META = {
    "kind": "meta_reward",
    "num_prompts": 5000,
    "candidates.num": 7,
    "candidates.temperature": 0.8,
    "candidates.top_p": 0.95,
    "judge.votes": 11,
    "judge.temperature": 0.8,
    "judge.top_p": 0.95,
    "train.beta": 0.1,
    "train.learning_rate": 5e-6,
    "train.batch_size": 32,
    "train.epochs": 10,
}
SPIN = {
    "num_iterations": 4,
    "mix_previous": True,
    "data.hub": "HuggingFaceH4/ultrachat_200k",
    "data.limit": 50_000,
    "train.loss": "spin",
    "train.reference": "stage_start",
    "train.optimizer": "rmsprop",
    "train.weight_decay": 0.0,
    "train.batch_size": 64,
    "train.warmup_fraction": 0.1,
    "train.schedule": "linear",
    **{f"per_iteration.{i}.learning_rate": rate for i, rate in enumerate((5e-7, 5e-7, 1e-7, 1e-7))},
    **{f"per_iteration.{i}.beta": beta for i, beta in enumerate((0.1, 0.1, 0.1, 5.0))},
}
IFT = {"data.open_assistant": "hub:OpenAssistant/oasst1", "data.lang": "en", "data.limit": 3200}

# Transcribed: arXiv 2401.10020v3, 2407.19594, 2401.01335v3 and its repository, 2402.04792.
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "self-rewarding-paper": {
        "": {"model": "meta-llama/Llama-2-70b-hf", "report_card.data.held_out_of": "M1"},
        "baseline": {**IFT, **SFT, "judge_data": None},
        "M1": {**IFT, **SFT, **JUDGE_DATA, "start_from": "initial", "judge_data.without.limit": 3200},
        "prompts-1": NEW_PROMPTS,
        "prompts-2": NEW_PROMPTS,
        "M2": {**AIFT, "num_pairs": 3964, "prompts.made_by": "prompts-1"},
        "M3": {**AIFT, "num_pairs": 6942, "prompts.made_by": "prompts-2"},
    },
    "meta-rewarding-paper": {
        "": {"model": "meta-llama/Meta-Llama-3-8B-Instruct"},
        "seed": {**SFT, **JUDGE_DATA, "data": None},
        **{f"prompts-{i}": {**NEW_PROMPTS, "num": 5000} for i in range(1, 5)},
        **{
            f"meta-{i}": {
                **META,
                "prompts.made_by": f"prompts-{i}",
                "train_judge": i <= 2,
                "pairing.rho": 0.4 if i == 4 else 0.32,
            }
            for i in range(1, 5)
        },
    },
    "spin-paper": {
        "": {"model": "alignment-handbook/zephyr-7b-sft-full", "accelerate.mixed_precision": "bf16"},
        "spin": {**SPIN, "max_seq_len": 2048, "train.epochs": 2},
    },
    "spin-repo": {
        "": {"model": "alignment-handbook/zephyr-7b-sft-full", "accelerate.mixed_precision": "bf16"},
        "spin": {
            **SPIN,
            "max_seq_len": 1024,
            "max_prompt_tokens": 512,
            "opponent.max_new_tokens": 256,
            "train.epochs": 6,
        },
    },
    "oaif": {
        "": {},
        "seed": {},
        "online": {
            "sample_every": 1,
            "candidates.num": 2,
            "candidates.temperature": 0.9,
            "judge.mode": "pairwise",
            "train.loss": "dpo",
            "train.beta": 0.1,
            "train.batch_size": 128,
            "train.learning_rate": 5e-7,
            "train.warmup_steps": 150,
        },
    },
}


def recipe(name: str, *overrides: str) -> Plan:
    return load_plan(parsed_yaml(recipe_text(name)), overrides)


@cache
def resolved(name: str) -> dict[str, Any]:
    shown: dict[str, Any] = yaml.safe_load(plan_text(recipe(name)))
    return shown


def at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def test_the_recipes_are_these() -> None:
    assert recipe_names() == sorted([*NAMES, "starter"]), "starter is no paper's: tests/cli/test_starter.py"
    assert set(PUBLISHED) == set(NAMES) - {"interleaved"}, "whose numbers are ours"
    assert all(20 < len(recipe_summary(name)) < 220 for name in NAMES)
    with pytest.raises(ConfigError, match=r"unknown recipe 'spin'; known: .*Did you mean 'spin-"):
        recipe_text("spin")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_be_read_and_nothing_that_can_be_known_now_speaks_against_it(name: str) -> None:
    found = overview(recipe(name))
    assert found.problems == []
    if name != "interleaved":
        assert found.warnings == [], "it stays within what the papers used"


@pytest.mark.parametrize(
    ("name", "stage", "path"),
    [(n, s, path) for n, stages in PUBLISHED.items() for s, numbers in stages.items() for path in numbers],
)
def test_a_resolved_number_is_the_published_one(name: str, stage: str, path: str) -> None:
    shown = resolved(name)
    names = [entry["name"] for entry in shown["stages"]]
    assert names == [entry for entry in PUBLISHED[name] if entry]
    place = shown if not stage else shown["stages"][names.index(stage)]
    assert at(place, path) == PUBLISHED[name][stage][path]


@pytest.mark.parametrize("preset", ["paper", "repo"])
def test_the_spin_recipes_are_the_presets_written_out(preset: str) -> None:
    (written,) = recipe(f"spin-{preset}").stages
    stage = {"kind": "spin", "data": written.data, "preset": preset}
    (made,) = load_plan({"model": "m", "stages": [stage]}).stages
    assert made.model_copy(update={"preset": None}) == written


@pytest.mark.parametrize("name", [name for name in NAMES if name != "interleaved"])
def test_every_number_of_training_and_sampling_says_where_it_is_from(name: str) -> None:
    """On its line, or for a whole block on the line that opens it."""
    blocks: list[tuple[int, bool]] = []  # how far a mapping is indented, and whether its line says a source
    for line in recipe_text(name).splitlines():
        setting, _, comment = line.partition("#")
        if not setting.strip():
            continue
        depth = len(setting) - len(setting.lstrip())
        blocks = [block for block in blocks if block[0] < depth]
        says = bool(
            re.search(r"paper|ours|unchecked|repository|LMs|Self-Instruct|as |stand-in|the ", comment)
        )
        if setting.strip().endswith(":"):
            blocks.append((depth, says))
        elif re.search(r": -?[\d.]+(e-?\d+)?\s*[,}]?", setting) and not setting.startswith("scale"):
            is_repeated = setting.strip().startswith("- {learning_rate")
            assert says or is_repeated or any(block[1] for block in blocks), f"{name}: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_in_small_does_less_and_judges_as_often(name: str) -> None:
    whole, small = recipe(name).stages, recipe(name, "scale=0.002").stages
    assert [stage.name for stage in whole] == [stage.name for stage in small]
    for one, other in zip(whole, small, strict=True):
        for part in ("candidates", "judge", "pairing", "opponent", "meta"):
            assert getattr(one, part, None) == getattr(other, part, None)
        for amount in ("num_pairs", "num_prompts", "num"):
            if getattr(one, amount, None) is not None:
                assert getattr(other, amount) == -(-getattr(one, amount) * 2 // 1000)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_from_end_to_end_in_the_demos_world(name: str, tmp_path: Path) -> None:
    summary = run(small_recipe(name, tmp_path), reporter=QUIET)
    assert summary["status"] == "completed"
    assert [stage["name"] for stage in summary["stages"]] == [stage.name for stage in recipe(name).stages]
    for stage in summary["stages"]:
        assert (tmp_path / "run" / stage["checkpoint"]).is_dir()
        if stage["kind"] == "self_instruct":
            assert stage["metrics"]["prompts_kept"] > 0
        else:
            assert stage["metrics"]["num_steps"] > 0
        assert (stage["num_pairs"] > 0) == (stage["kind"] not in ("sft", "self_instruct"))
    if "report_card" in parsed_yaml(recipe_text(name)):
        assert summary["judge"], "and its judge was measured"

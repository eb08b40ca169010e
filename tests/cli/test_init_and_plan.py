"""`init` writes a recipe; `plan` says what a plan comes to before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from self_rewarding_lm_pytorch.plans.recipe_texts import recipe_names, recipe_text
from tests.cli.test_cli import Command, srlm

__all__ = ["srlm"]

PLAN = """
model: tests.stages.worlds:factory
run: runs/small
stages:
  - {name: seed, kind: sft, data: seed.jsonl, epochs: 3, learning_rate: 1e-3, batch_size: 4}
  - {name: prompts, kind: self_instruct, seeds: seed.jsonl, num: 50}
  - name: own
    kind: self_reward
    iterations: 2
    prompts: {made_by: prompts}
    num_pairs: {each: [20, 30]}
    batch_size: 8
  - {name: play, kind: spin, data: {file: seed.jsonl, limit: 6}, num_iterations: 3, batch_size: 4, epochs: 2}
  - {name: live, kind: online, prompts: seed.jsonl, judge: {}, batch_size: 4}
  - {name: far, kind: dpo, data: "hub:nobody/pairs#limit=100", beta: 0.2}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"prompt": f"q{i}", "response": f"a{i}"}) for i in range(10)]
    (tmp_path / "seed.jsonl").write_text("\n".join(rows))
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_init_lists_the_recipes_and_writes_one_as_it_is(srlm: Command, place: Path) -> None:
    code, out, _ = srlm("init")
    assert code == 0
    assert all(f"{name} " in out for name in recipe_names())
    code, out, _ = srlm("init", "--recipe", "spin-paper", "--out", "deep/spin.yaml")
    first, _, rest = (place / "deep" / "spin.yaml").read_text().partition("\n")
    assert (code, rest) == (0, recipe_text("spin-paper"))
    assert first == "# yaml-language-server: $schema=./plan.schema.json"
    assert json.loads((place / "deep" / "plan.schema.json").read_text())["title"].startswith("A plan")
    assert "self-rewarding-lm plan deep/spin.yaml" in out


def test_init_never_writes_over_a_plan_and_names_a_near_recipe(srlm: Command, place: Path) -> None:
    code, _, err = srlm("init", "--recipe", "oaif")
    assert (code, (place / "plan.yaml").read_text()) == (1, PLAN)
    assert "'plan.yaml' exists and is left as it is" in err
    code, _, err = srlm("init", "--recipe", "self-rewarding")
    assert code == 1
    assert "unknown recipe 'self-rewarding'" in err
    assert "Did you mean 'self-rewarding-paper'?" in err


def test_every_recipe_that_init_writes_is_a_plan_without_problems(srlm: Command, place: Path) -> None:
    srlm("init", "--recipe", "self-rewarding-paper", "--out", "own.yaml")
    code, out, _ = srlm("plan", "own.yaml", "--set", "scale=0.002")
    assert code == 0
    assert "no problem was found in this plan" in out
    assert "num_pairs: 8" in out, "every resolved number is shown"


def test_plan_tells_items_steps_and_rates_of_each_stage(srlm: Command, place: Path) -> None:
    """10 items in steps of 4, three times: 9 steps. 6 items, then 12 and 12, twice: 4 + 6 + 6."""
    code, out, _ = srlm("plan", "plan.yaml", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["problems"] == []
    told = {
        s["name"]: (s["items"], s["items_at_most"], s["steps"], s["steps_at_most"]) for s in shown["stages"]
    }
    assert told == {
        "seed": (10, False, 9, False),
        "prompts": (50, True, 0, False),
        "own-1": (20, True, 3, True),
        "own-2": (30, True, 4, True),
        "play": (6, False, 16, True),
        "live": (10, False, 3, False),
        "far": (100, True, 7, True),
    }
    far = shown["stages"][-1]
    assert (far["batch_size"], far["learning_rates"], far["betas"]) == (16, [1e-6], [0.2])
    assert shown["plan"]["stages"][2]["candidates"]["num"] == 4
    assert any("nobody/pairs is on the hub and was not fetched" in line for line in shown["unseen"])


def test_plan_warns_where_the_papers_did_otherwise(srlm: Command, place: Path) -> None:
    code, out, _ = srlm("plan", "plan.yaml")
    said = " ".join(out.split())
    assert code == 0, "a warning stops nothing"
    assert "stage 1 (seed): learning_rate 0.001 is outside what was used for sft, 5.5e-06" in said
    assert "stage 5 (play): batch_size 4 is outside what was used for spin, 64 (SPIN)" in said
    assert "stage 3 (own-1): learning_rate" not in said
    code, out, _ = srlm("plan", "plan.yaml", "--set", "stages.seed.learning_rate=5.5e-6")
    assert "stage 1 (seed): learning_rate" not in out


def test_plan_tells_all_problems_and_ends_with_one(srlm: Command, place: Path) -> None:
    (place / "empty").mkdir()
    code, out, _ = srlm(
        "plan",
        "plan.yaml",
        *("--set", "model=empty"),
        *("--set", "stages.seed.data=gone.jsonl"),
        *("--set", "stages.own-2.prompts={made_by: seed}"),
        *("--set", "stages.own.start_from=later"),
        *("--set", "stages.own.judge.template=additiv"),
        *("--set", "stages.live.judge=null"),
        *("--set", "stages.live.reward=nowhere.py:score"),
        *("--set", "stages.far.optimizer_kwargs={lr_typo: 1}"),
    )
    said = " ".join(out.split())
    assert code == 1
    assert "this plan cannot be run" in said
    for problem in (
        "model 'empty' is a folder without config.json",
        "stage 1 (seed): data: there is no data file 'gone.jsonl'",
        "stage 4 (own-2): prompts names 'seed', which is no stage before this one that writes prompts",
        "stage 3 (own-1): start_from names 'later', which is no stage before this one",
        "stage 3 (own-1): judge template 'additiv' is neither a built-in",
        "stage 6 (live): ",
        "stage 7 (far): ",
    ):
        assert f"problem: {problem}" in said, problem


def test_plan_refuses_what_is_no_plan_in_words(srlm: Command, place: Path) -> None:
    code, _, err = srlm("plan", "plan.yaml", "--set", "scale=2")
    assert code == 1
    assert "plan: scale=2" in err
    code, _, err = srlm("plan", "plan.yaml", "--set", "stages.play.data={hub: a/b, splt: train}")
    assert code == 1
    assert "stage 5 (play): data:" in err
    assert "unknown key 'splt'" in err


def test_plan_loads_no_weights(srlm: Command, place: Path) -> None:
    text = yaml.safe_load(PLAN)
    text["model"] = "no_such_module:factory"
    (place / "plan.yaml").write_text(yaml.safe_dump(text))
    code, out, _ = srlm("plan", "plan.yaml")
    assert code == 1
    assert "No module named 'no_such_module'" in " ".join(out.split())


def test_plan_says_how_data_are_read_and_what_supervised_stages_sample(srlm: Command, place: Path) -> None:
    code, out, _ = srlm("plan", "plan.yaml", "--json")
    shown = json.loads(out)
    assert code == 0
    assert "stage 1 (seed): data: seed.jsonl: prompt/response; 10 rows" in shown["read"]
    assert any(line.startswith("stage 6 (live): prompts: seed.jsonl: ") for line in shown["read"])
    assert (
        shown["stages"][0]["tokens"]["candidate_tokens"],
        shown["stages"][0]["tokens"]["vote_tokens"],
    ) == (0, 0)


def test_plan_looks_at_all_that_can_be_told_without_weights(
    srlm: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (place / "own.py").write_text(
        "class Judge:\n    def __init__(self, *, size): pass\n    def judge(self, shown): return []\n"
    )
    code, out, _ = srlm(
        "plan",
        "plan.yaml",
        *("--set", "device=cuda"),
        *("--set", "trackers=wandb"),
        *("--set", "chat={template: gone.jinja}"),
        *("--set", "report_card={data: gone.jsonl}"),
        *("--set", "stages.live.reward=own.py:Judge"),
        *("--set", "stages.own.judge={custom: 'own.py:Judge', options: {siez: 1}}"),
        *("--set", "stages.live.reward_model=./gone/model"),
    )
    said = " ".join(out.split())
    assert code == 1
    for problem in (
        "trackers: wandb is not installed",
        "chat.template 'gone.jinja' is no file",
        "report_card: there is no data file 'gone.jsonl'",
        "stage 6 (live): stage 'live' needs one of judge",
        "stage 3 (own-1): unknown option of judge own.py:Judge 'siez'",
        "stage 6 (live): reward_model './gone/model' is no folder",
    ):
        assert f"problem: {problem}" in said, problem
    assert "warning: on this machine the plan cannot be run: device: cuda" in said

"""A plan's early stopper that compares answers with the previous check's, in whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.weights import read_weights
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from tests.stages.worlds import PROMPTS, QUIET, STAGES, plain, plan

CALLS: list[list[str]] = []

SEED = 5  # with it all answers of two checks differ, as some of these tests need


def scripted(scores: list[float]) -> Any:
    """A reward whose k-th call gives the first response the k-th preference over the second: 1, 0.5 or 0."""
    left = iter(scores)

    def judge(prompts: list[str], responses: list[str]) -> list[float]:
        CALLS.append(responses)
        lead = 2 * next(left) - 1
        return [lead if number % 2 == 0 else 0.0 for number in range(len(responses))]

    return judge


def given(reward: Any = None, /, **changes: Any) -> dict[str, Any]:
    """Sampled with much freedom and trained fast, so that no two checks answer alike."""
    stopper = {
        "kind": "win_rate",
        "prompts": PROMPTS[:3],
        "max_new_tokens": 8,
        "temperature": 3.0,
        "top_p": 1.0,
    }
    steps = {"num_steps": 5, "early_stop_every": 1, "learning_rate": 1e-1, "batch_size": 4}
    return {
        "kind": "dpo",
        "data": STAGES["given"]["data"],
        **steps,
        "early_stopper": {**stopper, **({"reward": reward} if reward else {}), **changes},
    }


def trained(folder: Path, stage: dict[str, Any], reporter: Reporter = QUIET) -> dict[str, Any]:
    return run({**plan(folder), "seed": SEED, "stages": [{"name": "given", **stage}]}, reporter=reporter)


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(folder / "stages/01-given/checkpoint/model.safetensors")


def logged(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["win_rate_vs_previous"] for row in rows if "win_rate_vs_previous" in row]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def test_training_stops_where_it_loses_and_the_check_before_returns(tmp_path: Path) -> None:
    stage = given(scripted([1, 1, 0, 1])) | {"schedule": "constant"}
    summary = trained(tmp_path / "run", stage)
    assert summary["stages"][0]["metrics"]["num_steps"] == 3
    assert summary["stages"][0]["metrics"]["win_rate_vs_previous"] == 0
    assert logged(tmp_path / "run") == [1, 1, 0]
    plain_run = given(None) | {"schedule": "constant", "num_steps": 2, "early_stopper": None}
    trained(tmp_path / "plain", plain_run)
    assert same(checkpoint(tmp_path / "run"), checkpoint(tmp_path / "plain"))


def test_losing_at_the_first_check_restores_the_start(tmp_path: Path) -> None:
    trained(tmp_path, given(scripted([0])))
    assert same(checkpoint(tmp_path), plain().state_dict())


@pytest.mark.parametrize(("tie", "steps"), [("continue", 5), ("stop", 1)])
def test_a_tie_goes_on_with_the_newer_weights_or_stops_at_the_older(
    tie: str, steps: int, tmp_path: Path
) -> None:
    stage = given(scripted([0.5] * 5), tie=tie) | {"schedule": "constant"}
    summary = trained(tmp_path / "run", stage)
    assert summary["stages"][0]["metrics"]["num_steps"] == steps
    if tie == "stop":
        assert same(checkpoint(tmp_path / "run"), plain().state_dict())
    else:
        trained(tmp_path / "plain", {**stage, "early_stopper": None})
        assert same(checkpoint(tmp_path / "run"), checkpoint(tmp_path / "plain"))


def test_each_check_compares_with_the_one_before_it(tmp_path: Path) -> None:
    trained(tmp_path, given(scripted([1] * 5)))
    now, before = ([call[side::2] for call in CALLS] for side in (0, 1))
    assert len(now) == 5
    assert before[1:] == now[:-1]
    assert before[0] != now[0]


def test_the_policy_judges_as_it_was_when_training_began(tmp_path: Path) -> None:
    """As another model with the weights of the start does, though the policy moves far from them."""
    comparing = {"mode": "pairwise", "template": "{{ prompt }} {{ first }} {{ second }}"}
    never = {"early_stop_kwargs": {"calculate_should_stop": lambda scores: False}}
    found = []
    for model in (None, plain()):
        folder = tmp_path / str(len(found))
        trained(folder, given(judge={**comparing, "model": model}) | never)
        found.append(logged(folder))
    assert found[0] == found[1]
    assert len(found[0]) == 5
    assert all(0 < rate < 1 for rate in found[0])


def test_what_has_no_verdict_is_no_loss_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(prompts: list[str], responses: list[str]) -> list[None]:
        return [None] * len(responses)

    summary = trained(tmp_path, given(nothing))
    assert summary["stages"][0]["metrics"]["num_steps"] == 5
    assert "none of 3 comparisons with the previous check has a verdict" in capsys.readouterr().out
    assert logged(tmp_path) == []


def test_it_is_told_in_words_at_each_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, given(scripted([1, 0])), Reporter())
    out = capsys.readouterr().out
    assert "step 1: preferred to the previous check's answers in 100.0 %" in out
    assert "step 2: preferred to the previous check's answers in 0.0 %" in out
    assert "of 3 comparisons" in out
    assert "stopped after 2 steps" in out


def test_own_samples_stages_take_it_and_the_plan_shows_its_defaults(tmp_path: Path) -> None:
    prompts = tmp_path / "valid.txt"
    prompts.write_text("what now?\nand then?\n")
    stopper = {
        "kind": "win_rate",
        "prompts": str(prompts),
        "reward": "tests.stages.worlds:reward",
        "max_new_tokens": 4,
    }
    stage = {**STAGES["text"], "early_stopper": stopper, "early_stop_every": 1}
    run({**plan(tmp_path / "run"), "stages": [{"name": "text", **stage}]}, reporter=QUIET)
    assert logged(tmp_path / "run")
    text = (tmp_path / "run/plan.yaml").read_text()
    for line in ("num: 253", "tie: continue", "temperature: 0.7", "top_p: 0.9"):
        assert line in text.split("early_stopper:")[1]
    assert len(read_rows(prompts)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, "needs either judge .* or reward .*, but has neither"),
        ({"judge": {}}, "but has both"),
        ({"kind": "winrate"}, "kind: Input should be 'win_rate'"),
        ({"prompt": "x"}, "unknown key 'prompt'"),
        ({"prompts": "gone.jsonl"}, "no data file 'gone.jsonl'"),
        ({"reward": "gone.py:f"}, "there is no file 'gone.py'"),
        ({"judge": {"template": "nice"}, "reward": None}, "neither a built-in"),
    ],
)
def test_what_is_wrong_is_said_before_any_training(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path / "run", given(**{"reward": "tests.stages.worlds:reward", **changes}))
    assert not (tmp_path / "run/stages").exists()

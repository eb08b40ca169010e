"""Online AI feedback: each block of steps trains on answers of the policy as it is then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import byte_codec
from tests.stages.worlds import PROMPTS, QUIET, TEMPLATE, RewardModel, hugging_face, plain, plan, rows

REWARD = "tests.stages.worlds:reward"


def online(folder: Path, *, model: Any = None, **settings: Any) -> dict[str, Any]:
    given = plan(folder)
    if model is not None:
        given |= {"model": model, "tokenizer": byte_codec()}
    judges = {"judge", "reward", "reward_model"} & settings.keys()
    stage = {
        "kind": "online",
        "prompts": PROMPTS,
        "candidates": {"temperature": 1.0, "max_new_tokens": 6},
        "batch_size": 2,
        "learning_rate": 1e-2,
        "dropout": 0.0,
        "log_every": 1,
        **({} if judges else {"reward": REWARD}),
        **settings,
    }
    given["stages"] = [stage]
    return run(given, reporter=QUIET)["stages"][0]  # type: ignore[no-any-return]


def pairs(folder: Path) -> list[dict[str, Any]]:
    return [row for name, own in rows(folder).items() if "/pairs/" in name for row in own]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_step_has_pairs_of_its_own_and_every_prompt_is_visited_in_turn(tmp_path: Path) -> None:
    stage = online(tmp_path, num_steps=6)
    made = pairs(tmp_path)
    assert stage["num_pairs"] == len(made) == 6 * 2
    assert stage["metrics"]["num_steps"] == 6
    assert stage["tokens_generated"] > 0
    visits = [(row["prompt_index"], row["visit"]) for row in made]
    assert len(set(visits)) == len(visits)
    assert {row["prompt_index"] for row in made} == set(range(len(PROMPTS)))


def test_an_epoch_is_as_many_steps_as_the_prompts_fill(tmp_path: Path) -> None:
    assert online(tmp_path, epochs=2)["metrics"]["num_steps"] == 2 * len(PROMPTS) / 2


def test_later_answers_are_the_trained_policys(tmp_path: Path) -> None:
    """With a rate of 0 the same addresses give other answers than with a rate that moves the policy."""
    for rate in (0.0, 5e-2):
        online(tmp_path / str(rate), num_steps=4, learning_rate=rate)
    still, moved = (pairs(tmp_path / str(rate)) for rate in (0.0, 5e-2))
    assert still[:2] == moved[:2]
    assert still[2:] != moved[2:]


def test_answers_are_sampled_once_for_each_block_of_steps(tmp_path: Path) -> None:
    for rate in (0.0, 5e-2):
        online(tmp_path / str(rate), num_steps=4, sample_every=2, learning_rate=rate)
    still, moved = (pairs(tmp_path / str(rate)) for rate in (0.0, 5e-2))
    assert still[:4] == moved[:4]
    assert still[4:] != moved[4:]


def test_the_reference_is_the_policy_as_the_stage_began(tmp_path: Path) -> None:
    online(tmp_path, num_steps=8, learning_rate=3e-2)
    found = lines(tmp_path)
    assert found[0]["preference_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert found[0]["kl_estimate"] == pytest.approx(0, abs=1e-4)
    assert abs(found[-1]["kl_estimate"]) > 1e-2


@pytest.mark.parametrize(("loss", "beta"), [("dpo", 0.3), ("ipo", 0.03), ("hinge", 0.3)])
def test_the_papers_three_losses_raise_the_reward_they_are_judged_by(
    tmp_path: Path, loss: str, beta: float
) -> None:
    """The reward counts some characters; after training the policy writes more of them."""
    settings = {"num_steps": 40, "batch_size": 6, "learning_rate": 3e-2, "loss": loss, "sample_every": 2}
    settings["candidates"] = {"num": 4, "temperature": 1.0, "max_new_tokens": 6}
    online(tmp_path, **settings, beta=beta, reward="tests.stages.test_online:signs")
    worth = [row["chosen_score"] + row["rejected_score"] for row in pairs(tmp_path)]
    assert sum(worth[-60:]) > 1.5 * sum(worth[:60])


def signs(prompts: list[str], responses: list[str]) -> list[float]:
    """How many characters stand before the digits."""
    return [float(sum(sign < "0" for sign in text)) for text in responses]


@pytest.mark.parametrize(
    "judge",
    [
        {"judge": {"template": TEMPLATE, "votes": 2, "unparsed": "force", "max_new_tokens": 5}},
        {"judge": {"template": TEMPLATE, "mode": "expected"}},
        {"judge": {"template": "p {{ prompt }} a {{ first }} b {{ second }}", "mode": "pairwise"}},
        {"reward_model": RewardModel()},
    ],
    ids=["itself, sampled", "itself, expected", "itself, comparing", "a reward model"],
)
def test_any_judge_will_do(tmp_path: Path, judge: dict[str, Any]) -> None:
    torch.manual_seed(0)
    stage = online(tmp_path, model=hugging_face(), num_steps=3, **judge)
    assert stage["num_pairs"] == 6
    assert all(row["chosen_score"] > row["rejected_score"] for row in pairs(tmp_path))


def test_another_model_may_judge(tmp_path: Path) -> None:
    judge = {"template": TEMPLATE, "mode": "expected", "model": hugging_face(seed=5)}
    assert online(tmp_path, num_steps=2, judge=judge)["num_pairs"] == 4


@pytest.mark.parametrize("reference", ["initial", "ema", "refresh"])
def test_the_other_references_work_online(tmp_path: Path, reference: str) -> None:
    more: dict[str, Any] = {"ema": {"reference_ema_decay": 0.9}, "refresh": {"reference_refresh_every": 2}}
    stage = online(tmp_path, model=plain(), num_steps=3, reference=reference, **more.get(reference, {}))
    assert stage["metrics"]["num_steps"] == 3


def test_a_stage_cut_off_goes_on_with_the_answers_it_had_and_ends_the_same(tmp_path: Path) -> None:
    whole = online(tmp_path / "whole", num_steps=4)
    from tests.stages import worlds

    reward, calls = worlds.reward, []

    def failing(prompts: list[str], responses: list[str]) -> list[float]:
        calls.append(len(prompts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return reward(prompts, responses)

    worlds.reward = failing
    try:
        with pytest.raises(KeyboardInterrupt):
            online(tmp_path / "cut", num_steps=4)
        before = len(calls)
        again = online(tmp_path / "cut", num_steps=4)
    finally:
        worlds.reward = reward
    assert len(calls) - before < before + 3  # what had been judged is not judged again
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert again["metrics"] == whole["metrics"]


def test_a_policy_that_leaves_nothing_to_tell_apart_keeps_what_it_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def soon_content(prompts: list[str], responses: list[str]) -> list[float]:
        calls.append(len(prompts))
        return [float(number) if len(calls) < 4 else 1.0 for number in range(len(prompts))]

    stage = online(tmp_path, model=plain(), num_steps=50, reward=soon_content, log_every=10)
    assert stage["metrics"]["num_steps"] == 3
    assert stage["num_pairs"] == 6
    assert [line["step"] for line in lines(tmp_path)] == [3]
    assert "ends after 3 of 50 steps" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / stage["checkpoint"]).is_dir()


def test_steps_are_smaller_where_pairs_run_short(tmp_path: Path) -> None:
    """One prompt of six gives pairs: four visits for each pair asked for find fewer than asked for."""

    def only_suns(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(number) if "sun" in prompt else 1.0 for number, prompt in enumerate(prompts)]

    stage = online(tmp_path, model=plain(), num_steps=3, batch_size=4, reward=only_suns)
    assert 3 <= stage["num_pairs"] < 12
    assert stage["metrics"]["num_steps"] == 3


def test_a_judge_that_sees_no_difference_ends_the_stage_with_the_yield(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tie +8"):
        online(tmp_path, num_steps=2, reward="tests.stages.test_online:ties")
    assert (tmp_path / "stages/01-online/skipped.json").exists()


def ties(prompts: list[str], responses: list[str]) -> list[float]:
    return [1.0] * len(prompts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"judge": {}, "reward": REWARD}, "judge and reward"),
        ({"reward": None}, "but has none"),
        ({"num_pairs": 8}, "num_pairs"),
        ({"sample_every": 0}, "sample_every"),
        ({"candidates": {"num": 1}}, "num"),
    ],
    ids=str,
)
def test_a_stage_that_cannot_be_is_refused_before_anything_runs(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        online(tmp_path, num_steps=2, **settings)
    assert words in str(refused.value)

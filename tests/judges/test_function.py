"""Reward functions over text: given in Python, or named in a plan."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.judges.function import FunctionJudge, load_reward_function
from self_rewarding_lm_pytorch.records import Candidate, Prompt
from tests.helpers import candidate, prompt


def shown(count: int = 5) -> list[tuple[Prompt, Candidate]]:
    return [(prompt(i, f"prompt {i}"), candidate(i, 3, "x" * i, visit=1)) for i in range(count)]


def lengths(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_each_response_gets_its_own_number(batch_size: int) -> None:
    judgments = FunctionJudge(lengths, batch_size=batch_size).judge(shown())
    assert [judgment.score for judgment in judgments] == [0, 1, 2, 3, 4]
    assert [(j.prompt_index, j.visit, j.candidate_index) for j in judgments] == [(i, 1, 3) for i in range(5)]
    assert FunctionJudge(lengths).num_votes == 0


def test_the_function_sees_prompts_and_responses_as_text() -> None:
    seen: list[Any] = []

    def spy(prompts: list[str], responses: list[str]) -> list[float]:
        seen.append((prompts, responses))
        return [0.0] * len(prompts)

    FunctionJudge(spy, batch_size=2).judge(shown(3))
    assert seen == [(["prompt 0", "prompt 1"], ["", "x"]), (["prompt 2"], ["xx"])]


@pytest.mark.parametrize(
    "rewards",
    [[1, 2.5], (1, 2.5), torch.tensor([1.0, 2.5]), iter([1.0, 2.5]), [torch.tensor(1.0), 2.5]],
    ids=["list", "tuple", "tensor", "iterator", "mixed"],
)
def test_any_sequence_of_numbers_will_do(rewards: Any) -> None:
    judgments = FunctionJudge(lambda prompts, responses: rewards).judge(shown(2))
    assert [judgment.score for judgment in judgments] == [1.0, 2.5]
    assert all(type(judgment.score) is float for judgment in judgments)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_none_and_what_is_no_number_are_no_score_and_not_zero(value: float | None) -> None:
    none, zero = FunctionJudge(lambda prompts, responses: [value, 0.0]).judge(shown(2))
    assert none.score is None
    assert str(value) in none.reason
    assert (zero.score, zero.reason) == (0.0, "")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_rewards_is_refused_with_both_counts(count: int) -> None:
    with pytest.raises(JudgeError, match=f"gave {count} rewards for 2 responses"):
        FunctionJudge(lambda prompts, responses: [1.0] * count).judge(shown(2))


def test_a_function_that_fails_is_named_with_the_response() -> None:
    def broken(prompts: list[str], responses: list[str]) -> list[float]:
        return [1 / len(response) for response in responses]

    with pytest.raises(JudgeError, match=r"broken failed on a batch of 2.*ZeroDivisionError.*''") as error:
        FunctionJudge(broken).judge(shown(2))
    assert isinstance(error.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("reward", ["good", [1.0, 2.0], {}], ids=["text", "list", "dict"])
def test_a_reward_that_is_not_a_number_is_a_judge_error_that_shows_it(reward: Any) -> None:
    with pytest.raises(JudgeError):
        FunctionJudge(lambda prompts, responses: [reward] * len(prompts)).judge(shown(2))


def test_one_number_for_all_is_refused() -> None:
    with pytest.raises(JudgeError):
        FunctionJudge(lambda prompts, responses: 1.0).judge(shown(2))


def test_progress_counts_responses() -> None:
    done: list[int] = []
    FunctionJudge(lengths, batch_size=2).judge(shown(), on_progress=lambda units, tokens: done.append(units))
    assert done == [2, 2, 1]


SOURCE = "def reward(prompts, responses):\n    return [len(r) for r in responses]\n"


def test_a_function_in_a_file_is_found_beside_the_plan_first(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "rewards.py").write_text("def reward(prompts, responses):\n    return [9]\n")
    monkeypatch.chdir(tmp_path)
    assert load_reward_function("rewards.py:reward", base=tmp_path / "plans")(["p"], ["abc"]) == [9]
    (tmp_path / "plans" / "rewards.py").write_text(SOURCE)
    assert load_reward_function("rewards.py:reward", base=tmp_path / "plans")(["p"], ["abc"]) == [3]
    assert load_reward_function(f"{tmp_path}/rewards.py:reward")(["p"], ["abc"]) == [9]


def test_a_function_in_a_package_is_found_by_its_name() -> None:
    assert load_reward_function("tests.judges.test_function:lengths") is lengths


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("reward", "file.py:name"),
        ("missing.py:reward", "no file"),
        ("no_such_module:reward", "no_such_module"),
        ("tests.judges.test_function:nothing", "nothing"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_words(source: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_reward_function(source)


def test_a_file_that_is_not_python_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def reward(:\n")
    with pytest.raises(ConfigError, match=r"broken\.py"):
        load_reward_function(f"{tmp_path}/broken.py:reward")


def test_a_name_that_is_no_function_is_refused(tmp_path: Path) -> None:
    (tmp_path / "number.py").write_text("reward = 3\n")
    with pytest.raises(ConfigError, match="reward"):
        load_reward_function(f"{tmp_path}/number.py:reward")


def test_a_file_with_a_dataclass_loads(tmp_path: Path) -> None:
    """dataclasses look their module up in sys.modules when annotations are text."""
    (tmp_path / "typed_reward.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Rule:\n    weight: float = 2.0\n"
        "def reward(prompts, responses):\n    return [Rule().weight * len(r) for r in responses]\n"
    )
    assert load_reward_function(f"{tmp_path}/typed_reward.py:reward")(["p"], ["ab"]) == [4.0]

"""What is found out while a stage begins or trains, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from self_rewarding_lm_pytorch.errors import CheckpointError, DataError, TrainingError
from tests.bad_input.models import HERE
from tests.bad_input.table import Case, check, stage
from tests.bad_input.test_data import linked
from tests.bad_input.test_run_folders import begun, removed

CASES = [
    Case(
        "no items are given",
        lambda world: world.plan(stage("seed", data=[])),
        ("no items", "give"),
        DataError,
        late=True,
    ),
    Case(
        "no gradient flows",
        lambda world: world.plan(stage("seed"), model=f"{HERE}:no_gradient"),
        ("step 1", "no gradient", "detach", "no_grad"),
        TrainingError,
        late=True,
    ),
    Case(
        "logits are not numbers, in preference training",
        lambda world: world.plan(stage("given"), model=f"{HERE}:no_number"),
        ("nan", "not numbers", "weights"),
        TrainingError,
        late=True,
    ),
    Case(
        "a key of early_stopper is misspelt",
        lambda world: world.plan(stage("own", early_stopper={"kind": "win_rate", "promts": "p"})),
        ("early_stopper", "'promts'", "Did you mean 'prompts'?"),
    ),
    Case(
        "every reward is NaN, and that is said",
        lambda world: world.plan(stage("text", reward=f"{HERE}:no_numbers")),
        ("no preference pair", "the reward is nan", "look at the reward function"),
        DataError,
        late=True,
    ),
    Case(
        "a reward is always the same, and what to do is said",
        lambda world: world.plan(stage("text", reward=f"{HERE}:always_one")),
        ("no preference pair", "tie", "candidates.temperature"),
        DataError,
        late=True,
    ),
    Case(
        "a data file of a plan cannot be read",
        linked("/proc/self/mem"),
        ("link.jsonl", "Input/output error", "its disk"),
        DataError,
    ),
    Case(
        "a plan is gone, and it is named",
        begun(removed("plan.yaml")),
        ("plan.yaml", "--fresh"),
        CheckpointError,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_stage_finds_wrong_is_said_with_the_value_and_the_remedy(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)

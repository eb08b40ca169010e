"""Which items make a step, and the learning rate of each step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from self_rewarding_lm_pytorch.training.batching import micro_batches, step_indices, steps_per_epoch
from self_rewarding_lm_pytorch.training.optimizer import learning_rate, make_optimizer
from self_rewarding_lm_pytorch.training.settings import PreferenceSettings, TrainSettings
from tests.helpers import recurrent


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 3))
def test_an_epoch_uses_every_item_exactly_once(num_items: int, batch_size: int, epoch: int) -> None:
    steps = steps_per_epoch(num_items, batch_size)
    used = [
        index
        for step in range(epoch * steps, (epoch + 1) * steps)
        for index in step_indices(num_items, batch_size, step, "seed", 1)
    ]
    assert sorted(used) == list(range(num_items))


def test_the_last_smaller_batch_is_kept() -> None:
    assert [len(step_indices(10, 4, step, 0)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_a_steps_items_depend_on_the_seed_and_the_step_alone() -> None:
    backwards = {step: step_indices(50, 8, step, "stage", 3) for step in reversed(range(14))}
    forwards = {step: step_indices(50, 8, step, "stage", 3) for step in range(14)}
    assert backwards == forwards
    assert step_indices(50, 8, 0, "stage", 3) != step_indices(50, 8, 0, "stage", 4)
    assert step_indices(50, 8, 0, "stage", 3) != step_indices(50, 8, 7, "stage", 3)


def test_items_are_shuffled() -> None:
    assert step_indices(50, 50, 0, 0) != list(range(50))


@given(st.lists(st.text(max_size=9), min_size=1, max_size=20), st.integers(1, 8))
def test_micro_batches_hold_every_item_once_longest_first(items: list[str], size: int) -> None:
    made = micro_batches(items, size)
    flat = [item for batch in made for item in batch]
    assert sorted(flat) == sorted(items)
    assert [len(item) for item in flat] == sorted(map(len, items), reverse=True)
    assert all(len(batch) == size for batch in made[:-1])
    assert 1 <= len(made[-1]) <= size


@given(st.lists(st.text(max_size=9), min_size=1, max_size=20), st.integers(1, 8), st.integers(1, 30))
def test_micro_batches_keep_to_their_tokens_with_padding(items: list[str], size: int, tokens: int) -> None:
    made = micro_batches(items, size, tokens)
    assert sorted(item for batch in made for item in batch) == sorted(items)
    for number, batch in enumerate(made):
        longest = max(len(batch[0]), 1)
        assert len(batch) == 1 or len(batch) * longest <= tokens
        is_full = len(batch) == size or (len(batch) + 1) * longest > tokens
        assert is_full or number == len(made) - 1


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        # 10 steps, peak 1, end 0.1: the cosine starts at the peak and is half-way at step 5
        ({"schedule": "cosine"}, 0, 1.0),
        ({"schedule": "cosine"}, 5, 0.55),
        ({"schedule": "cosine"}, 9, 0.1 + 0.9 * (1 + math.cos(0.9 * math.pi)) / 2),
        ({"schedule": "linear"}, 0, 1.0),
        ({"schedule": "linear"}, 5, 0.55),
        ({"schedule": "linear", "end_learning_rate": 0.0}, 8, 0.2),
        ({"schedule": "constant"}, 9, 1.0),
        # warm-up of 4: 1/4, 2/4, 3/4, 4/4, then 6 steps of decay
        ({"schedule": "linear", "warmup_steps": 4}, 0, 0.25),
        ({"schedule": "linear", "warmup_steps": 4}, 3, 1.0),
        ({"schedule": "linear", "warmup_steps": 4}, 4, 1.0),
        ({"schedule": "linear", "warmup_steps": 4}, 7, 0.55),
        ({"schedule": "constant", "warmup_steps": 2}, 0, 0.5),
        # decay over 4 steps, then the end rate
        ({"schedule": "linear", "num_decay_steps": 4}, 2, 0.55),
        ({"schedule": "linear", "num_decay_steps": 4}, 4, 0.1),
        ({"schedule": "cosine", "num_decay_steps": 4}, 9, 0.1),
    ],
)
def test_learning_rates_are_those_worked_by_hand(
    settings: dict[str, object], step: int, expected: float
) -> None:
    made = TrainSettings.model_validate({"learning_rate": 1.0, **settings})
    assert learning_rate(made, step, 10) == pytest.approx(expected, abs=1e-12)


def test_the_end_rate_is_a_tenth_unless_given() -> None:
    given_end = TrainSettings(learning_rate=5.5e-6, end_learning_rate=1.1e-6, num_decay_steps=2)
    default_end = TrainSettings(learning_rate=1e-6, num_decay_steps=2)
    assert learning_rate(given_end, 9, 10) == pytest.approx(1.1e-6)
    assert learning_rate(default_end, 9, 10) == pytest.approx(1e-7)


def test_an_end_rate_above_the_peak_is_refused_with_both_values() -> None:
    with pytest.raises(ValidationError, match=r"1e-05.*1e-06"):
        TrainSettings(learning_rate=1e-6, end_learning_rate=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"epochs": 0},
        {"num_steps": 0},
        {"learning_rate": -1.0},
        {"dropout": 1.0},
        {"schedule": "polynomial"},
        {"learning_rte": 1e-6},
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainSettings.model_validate(wrong)


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"reference_ema_decay": 1.5}, {"replay_batch_size": -1}])
def test_preference_settings_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PreferenceSettings.model_validate(wrong)


def test_weight_decay_is_for_matrices_only() -> None:
    optimizer = make_optimizer(recurrent().module, TrainSettings(weight_decay=0.1))
    decays = {p.ndim >= 2: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {True: 0.1, False: 0.0}


def test_optimizer_arguments_reach_the_optimizer() -> None:
    settings = TrainSettings(learning_rate=0.5, optimizer_kwargs={"betas": (0.8, 0.9), "eps": 1e-3})
    group = make_optimizer(recurrent().module, settings).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.8, 0.9), 1e-3)

"""The names, arguments and defaults that users of the published library already know."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import self_rewarding_lm_pytorch as package
from self_rewarding_lm_pytorch.generation.filters import top_p

NEEDED = object()
EITHER = ({}, None)  # an empty dictionary, however it is written

REWARDED = {
    "prompt_dataset": NEEDED,
    "num_generated_preference_pairs": NEEDED,
    "dpo_beta": 0.1,
    "max_seq_len": 1024,
    "is_valid_reward": lambda default: default(0.0) and default(3.5) and not default(-1.0),
    "is_valid_reward_pair": lambda default: default(2.0, 1.0) and not default(1.0, 1.0),
    "pick_paired_rewards_fn": lambda default: tuple(default(torch.tensor([2.0, 5.0, 1.0]))) == (1, 2),
    "dropout": 0.1,
    "early_stopper_eval_module": None,
    "num_train_steps": None,
    "num_candidate_responses": 4,
    "gen_temperature": 0.7,
    "gen_filter_fn": top_p,
    "gen_filter_kwargs": EITHER,
    "trainer_kwargs": EITHER,
    "reward_generator_kwargs": EITHER,
}

# From shared/contract/signatures.md.
SIGNATURES: dict[str, dict[str, Any]] = {
    "SelfRewardingTrainer": {
        "model": NEEDED,
        "finetune_configs": NEEDED,
        "tokenizer_encode": NEEDED,
        "tokenizer_decode": NEEDED,
        "self_reward_prompt_config": None,
        "pad_id": -1,
        "checkpoints_folder": "./checkpoints",
        "accelerate_kwargs": EITHER,
        "eos_id": None,
    },
    "create_default_paper_config": {
        "train_sft_dataset": NEEDED,
        "self_reward_prompt_dataset": NEEDED,
        "valid_sft_dataset": None,
        "num_generated_preference_pairs": (3964, 6942),
        "early_stopper_eval_module": None,
        "dpo_num_train_steps": None,
        "sft_config": EITHER,
        "self_reward_config": EITHER,
    },
    "SFTConfig": {
        "train_dataset": NEEDED,
        "valid_dataset": None,
        "dropout": 0.1,
        "trainer_kwargs": EITHER,
    },
    "SelfRewardDPOConfig": {
        **REWARDED,
        "rewarding_model": None,
        "self_reward_config_keyname": "default",
        "num_sampled_reward_responses": 3,
        "eval_temperature": 0.7,
        "eval_filter_fn": top_p,
        "eval_filter_kwargs": EITHER,
        "unparsed": "force",
    },
    "ExternalRewardDPOConfig": {"reward_model": NEEDED, **REWARDED},
    "SelfPlayConfig": {
        "train_dataset": NEEDED,
        "valid_dataset": None,
        "max_seq_len": 1024,
        "spin_λ": 0.1,
        "dropout": 0.1,
        "temperature": 0.7,
        "filter_fn": top_p,
        "filter_kwargs": EITHER,
        "trainer_kwargs": EITHER,
        "spin_kwargs": EITHER,
    },
    "RewardConfig": {
        "reward_regex_template": None,
        "parse_reward": None,
        "template_fn": None,
        "auto_dedent": True,
        "score_range": None,
    },
    "DPO": {"model": NEEDED, "beta": 0.1, "ref_model_ema_decay": 1.0, "pad_id": None, "ema_kwargs": EITHER},
    "SPIN": {"model": NEEDED, "λ": 0.1, "pad_id": None, "ref_model_ema_decay": 1.0, "ema_kwargs": EITHER},
    "DPOTrainer": {
        "model": NEEDED,
        "dataset_generator": None,
        "accelerator": None,
        "batch_size": 16,
        "grad_accum_steps": 2,
        "num_decay_steps": 1000,
        "num_train_steps": None,
        "weight_decay": 0.0,
        "train_dataset": None,
        "valid_dataset": None,
        "start_learning_rate": 1e-6,
        "end_learning_rate": 1e-7,
        "early_stopper": None,
        "dropout": 0.1,
        "check_early_stop_every": 200,
        "early_stopper_eval_module": None,
        "adam_kwargs": EITHER,
        "accelerate_kwargs": EITHER,
        "dpo_kwargs": EITHER,  # without it beta is 0.1 and the decay 1; see test_dpo_trainer
        "early_stopper_kwargs": EITHER,
    },
    "SPINTrainer": {
        "model": NEEDED,
        "train_sft_dataset": NEEDED,
        "max_seq_len": NEEDED,
        "valid_sft_dataset": None,
        "valid_every": 100,
        "accelerator": None,
        "accelerate_kwargs": EITHER,
        "batch_size": 16,
        "grad_accum_steps": 2,
        "epochs": 2,
        "start_learning_rate": 1e-6,
        "end_learning_rate": 1e-7,
        "learning_rate_num_decay_steps": 1000,
        "dropout": 0.0,
        "weight_decay": 0.0,
        "adam_kwargs": EITHER,
        "temperature": 0.7,
        "filter_fn": top_p,
        "filter_kwargs": EITHER,  # top_p's own default is 0.9
        "pad_id": -1,
        "ref_model_ema_decay": 1.0,
        "checkpoint_every": None,
        "checkpoint_folder": "./spin-checkpoints",
        "spin_kwargs": EITHER,
        "eos_id": None,
    },
    "create_mock_dataset": {"length": NEEDED, "output": NEEDED},
}

CALLS: dict[str, list[str]] = {
    "DPO": ["preferred_seq", "unpreferred_seq", "prompt_len", "preferred_seq_mask", "unpreferred_seq_mask"],
    "SPIN": ["generated_seq", "real_seq", "prompt_len", "generated_seq_mask", "real_seq_mask"],
}

POSITIONAL: dict[str, list[str]] = {
    "SelfRewardingTrainer": ["model"],
    "create_default_paper_config": [],
    "SFTConfig": list(SIGNATURES["SFTConfig"]),
    "SelfPlayConfig": list(SIGNATURES["SelfPlayConfig"]),
    "SelfRewardDPOConfig": list(REWARDED)[:4],
    "ExternalRewardDPOConfig": ["reward_model", *list(REWARDED)[:4]],
    "RewardConfig": ["prompt_template", *SIGNATURES["RewardConfig"]],
    "DPO": ["model"],
    "SPIN": ["model"],
    "DPOTrainer": ["model"],
    "SPINTrainer": ["model"],
    "create_mock_dataset": ["length", "output"],
}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(package, name)).parameters)


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_published_name_can_be_imported_from_the_package(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from self_rewarding_lm_pytorch import {name}", namespace)
    assert namespace[name] is getattr(package, name)


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, table in SIGNATURES.items() for a in table])
def test_each_argument_has_the_published_default(name: str, argument: str) -> None:
    expected, found = SIGNATURES[name][argument], parameters(name)[argument].default
    if expected is NEEDED:
        assert found is inspect.Parameter.empty
    elif expected is EITHER:
        assert found is None or found.__class__.__name__ == "_HAS_DEFAULT_FACTORY_CLASS"
    elif callable(expected) and expected is not top_p:
        assert expected(found)
    else:
        assert found == expected


@pytest.mark.parametrize("name", POSITIONAL)
def test_what_could_be_given_by_position_still_can(name: str) -> None:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    found = [n for n, p in parameters(name).items() if p.kind in kinds]
    assert found[: len(POSITIONAL[name])] == POSITIONAL[name]


@pytest.mark.parametrize("name", CALLS)
def test_the_modules_are_called_with_the_published_arguments(name: str) -> None:
    found = inspect.signature(getattr(package, name).forward).parameters
    assert list(found)[1:] == CALLS[name]
    assert [found[argument].default for argument in CALLS[name][3:]] == [None, None]


def test_calling_a_trainer_overwrites_only_where_the_published_one_did() -> None:
    called = inspect.signature(package.SelfRewardingTrainer.__call__).parameters
    assert called["overwrite_checkpoints"].default is False
    called = inspect.signature(package.SPINTrainer.__call__).parameters
    assert called["overwrite_checkpoints"].default is True


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="SelfRewardingTrainr"):
        package.SelfRewardingTrainr  # noqa: B018


def test_a_mock_data_set_has_its_length_and_its_value() -> None:
    data = package.create_mock_dataset(3, "mock prompt")
    assert [data[i] for i in range(len(data))] == ["mock prompt"] * 3
    with pytest.raises(IndexError, match="3"):
        data[3]


def test_a_mock_data_set_makes_new_items_at_each_access() -> None:
    data = package.create_mock_dataset(2, lambda: torch.randint(0, 256, (32,)))
    assert not torch.equal(data[0], data[0])

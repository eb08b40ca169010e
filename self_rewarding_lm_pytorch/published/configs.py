"""The configs of the published interface, and the stage that each of them is."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.filters import FilterFn, top_p
from self_rewarding_lm_pytorch.preferences.pairing import best_and_worst, is_not_negative, rewards_differ
from self_rewarding_lm_pytorch.published.arguments import (
    IgnoringItems,
    beta_of,
    checked,
    filter_settings,
    one_dataset,
    training_settings,
)
from self_rewarding_lm_pytorch.published.defaults import (
    DPO_DEFAULTS,
    EPOCHS_UNTIL_STOPPED,
    GENERATOR_KEYS,
    SFT_DEFAULTS,
    SPIN_DEFAULTS,
)
from self_rewarding_lm_pytorch.published.reward_config import RewardConfig
from self_rewarding_lm_pytorch.registry import unknown_name
from self_rewarding_lm_pytorch.stages.base import StageConfig
from self_rewarding_lm_pytorch.stages.external_reward import ExternalRewardStage
from self_rewarding_lm_pytorch.stages.self_reward import SelfRewardStage
from self_rewarding_lm_pytorch.stages.sft import SFTStage
from self_rewarding_lm_pytorch.stages.spin import SPINStage

__all__ = [
    "ExternalRewardDPOConfig",
    "FinetuneConfig",
    "RewardConfig",
    "SFTConfig",
    "SelfPlayConfig",
    "SelfRewardDPOConfig",
]


class FinetuneConfig:
    """One stage of the published interface."""

    @abstractmethod
    def stage(self, rewards: Mapping[str, RewardConfig]) -> StageConfig:
        """The stage this config describes; `rewards` are the trainer's named reward configs."""


@dataclass
class SFTConfig(FinetuneConfig):
    """Supervised fine-tuning on items (ids, prompt length or prompt mask)."""

    train_dataset: Any
    valid_dataset: Any = None
    dropout: float = 0.1
    trainer_kwargs: dict[str, Any] = field(default_factory=dict)

    def stage(self, rewards: Mapping[str, RewardConfig]) -> StageConfig:
        settings = training_settings("SFTConfig.trainer_kwargs", self.trainer_kwargs, SFT_DEFAULTS)
        values = {**SFT_DEFAULTS, **self.trainer_kwargs}
        settings |= {
            "epochs": values["num_epochs"],
            "num_decay_steps": values["learning_rate_num_decay_steps"],
            "validate_every": values["valid_every"] if self.valid_dataset is not None else None,
            "dropout": self.dropout,
        }
        data, valid = one_dataset(self.train_dataset), one_dataset(self.valid_dataset)
        if values["ignore_index"] >= 0:  # a negative one already marks padding
            data = IgnoringItems(data, values["ignore_index"])
            valid = None if valid is None else IgnoringItems(valid, values["ignore_index"])
        return SFTStage.model_validate({"name": "sft", "data": data, "valid_data": valid, "train": settings})


@dataclass
class _RewardedConfig(FinetuneConfig):
    """What self-reward and external-reward configs share."""

    prompt_dataset: Any
    num_generated_preference_pairs: int
    dpo_beta: float = 0.1
    max_seq_len: int = 1024
    _: KW_ONLY
    is_valid_reward: Callable[[float], bool] = is_not_negative
    is_valid_reward_pair: Callable[[Any, Any], Any] = rewards_differ
    pick_paired_rewards_fn: Callable[[Tensor], Any] = best_and_worst
    dropout: float = 0.1
    early_stopper_eval_module: Any = None
    num_train_steps: int | None = None
    num_candidate_responses: int = 4
    gen_temperature: float = 0.7
    gen_filter_fn: FilterFn | None = top_p
    gen_filter_kwargs: dict[str, Any] = field(default_factory=dict)
    trainer_kwargs: dict[str, Any] = field(default_factory=dict)
    reward_generator_kwargs: dict[str, Any] = field(default_factory=dict)
    beta: float | None = None

    def _shared(self, name: str) -> dict[str, Any]:
        where = f"{type(self).__name__}.reward_generator_kwargs"
        generator = checked(where, self.reward_generator_kwargs, GENERATOR_KEYS)
        where = f"{type(self).__name__}.gen_filter_kwargs"
        return {
            "name": name,
            "prompts": self.prompt_dataset,
            "num_pairs": self.num_generated_preference_pairs,
            "shard_size": generator.get("batch_size"),
            "max_seq_len": min(self.max_seq_len, generator.get("preference_max_seq_len", self.max_seq_len)),
            "candidates": {
                "num": self.num_candidate_responses,
                "temperature": self.gen_temperature,
                **filter_settings(where, self.gen_filter_fn, self.gen_filter_kwargs),
            },
            "pairing": {
                "pick": self.pick_paired_rewards_fn,
                "is_valid_reward": self.is_valid_reward,
                "is_valid_pair": _of_tensors(self.is_valid_reward_pair),
            },
            "train": self._training(),
            "early_stopper": self.early_stopper_eval_module,
        }

    def _training(self) -> dict[str, Any]:
        where = f"{type(self).__name__}.trainer_kwargs"
        settings = training_settings(where, self.trainer_kwargs, DPO_DEFAULTS)
        values = {**DPO_DEFAULTS, **self.trainer_kwargs}
        own = self.dpo_beta if self.beta is None else self.beta
        dpo = values["dpo_kwargs"]
        steps = self.num_train_steps if self.num_train_steps is not None else values["num_train_steps"]
        stopped = self.early_stopper_eval_module is not None
        return settings | {
            "beta": beta_of(f"{where}['dpo_kwargs']", dpo, own, ["ref_model_ema_decay"]),
            "reference_ema_decay": dpo.get("ref_model_ema_decay", 1.0),
            "num_decay_steps": values["num_decay_steps"],
            "num_steps": steps,
            "epochs": EPOCHS_UNTIL_STOPPED if stopped else 1,
            "early_stop_every": values["check_early_stop_every"],
            "early_stop_kwargs": dict(values["early_stopper_kwargs"]),
            "dropout": self.dropout,
        }


@dataclass(kw_only=True)
class SelfRewardDPOConfig(_RewardedConfig):
    """Self-reward DPO; with `rewarding_model`, another model is the judge (OAIF's LLM annotator)."""

    rewarding_model: Any = None
    self_reward_config_keyname: str = "default"
    num_sampled_reward_responses: int = 3
    eval_temperature: float = 0.7
    eval_filter_fn: FilterFn | None = top_p
    eval_filter_kwargs: dict[str, Any] = field(default_factory=dict)
    unparsed: str = "force"

    def stage(self, rewards: Mapping[str, RewardConfig]) -> StageConfig:
        if self.self_reward_config_keyname not in rewards:
            raise ConfigError(unknown_name("reward config", self.self_reward_config_keyname, rewards))
        where = "SelfRewardDPOConfig.eval_filter_kwargs"
        judge = {
            **rewards[self.self_reward_config_keyname].judge_settings(),
            "votes": self.num_sampled_reward_responses,
            "unparsed": self.unparsed,
            "temperature": self.eval_temperature,
            **filter_settings(where, self.eval_filter_fn, self.eval_filter_kwargs),
            "max_new_tokens": self.reward_generator_kwargs.get("generate_reward_max_seq_len"),
            "model": self.rewarding_model,
        }
        return SelfRewardStage.model_validate({**self._shared("self_reward"), "judge": judge})


@dataclass
class _RewardModel:
    """A base of its own, because `reward_model` comes first."""

    reward_model: Any


@dataclass
class ExternalRewardDPOConfig(_RewardedConfig, _RewardModel):
    """DPO with a reward model over ids of prompt + response."""

    def stage(self, rewards: Mapping[str, RewardConfig]) -> StageConfig:
        return ExternalRewardStage.model_validate(
            {**self._shared("external_reward"), "reward_model": self.reward_model}
        )


@dataclass
class SelfPlayConfig(FinetuneConfig):
    """SPIN self-play on a supervised data set; beyond the published arguments, several iterations."""

    train_dataset: Any
    valid_dataset: Any = None
    max_seq_len: int = 1024
    spin_λ: float = 0.1
    dropout: float = 0.1
    temperature: float = 0.7
    filter_fn: FilterFn | None = top_p
    filter_kwargs: dict[str, Any] = field(default_factory=dict)
    trainer_kwargs: dict[str, Any] = field(default_factory=dict)
    spin_kwargs: dict[str, Any] = field(default_factory=dict)
    beta: float | None = None
    num_iterations: int = field(default=1, kw_only=True)

    def stage(self, rewards: Mapping[str, RewardConfig]) -> StageConfig:
        where = "SelfPlayConfig.trainer_kwargs"
        settings = training_settings(where, self.trainer_kwargs, SPIN_DEFAULTS)
        values = {**SPIN_DEFAULTS, **self.trainer_kwargs}
        own = self.spin_λ if self.beta is None else self.beta
        spin = {**values["spin_kwargs"], **self.spin_kwargs}
        settings |= {
            "beta": beta_of("SelfPlayConfig.spin_kwargs", spin, own, ["ref_model_ema_decay"]),
            "reference_ema_decay": spin.get("ref_model_ema_decay", 1.0),
            "epochs": values["epochs"],
            "num_decay_steps": values["learning_rate_num_decay_steps"],
            "validate_every": values["valid_every"] if self.valid_dataset is not None else None,
            "checkpoint_every": values["checkpoint_every"],
            "dropout": self.dropout,
        }
        opponent = {
            "temperature": self.temperature,
            **filter_settings("SelfPlayConfig.filter_kwargs", self.filter_fn, self.filter_kwargs),
        }
        return SPINStage.model_validate(
            {
                "name": "spin",
                "data": one_dataset(self.train_dataset),
                "valid_data": one_dataset(self.valid_dataset),
                "num_iterations": self.num_iterations,
                "max_seq_len": self.max_seq_len,
                "opponent": opponent,
                "train": settings,
            }
        )


def _of_tensors(is_valid: Callable[[Any, Any], Any]) -> Callable[[float, float], Any]:
    """Called with 0-d tensors, as published: `a > b` and `(a != b).all()` both work."""

    @functools.wraps(is_valid)
    def valid(preferred: float, unpreferred: float) -> Any:
        both = torch.tensor([preferred, unpreferred], dtype=torch.float64)
        return is_valid(both[0], both[1])

    return valid

"""The pipeline of Self-Rewarding Language Models (2401.10020) with the paper's numbers."""

from __future__ import annotations

from typing import Any

from self_rewarding_lm_pytorch.published.arguments import checked_arguments
from self_rewarding_lm_pytorch.published.configs import FinetuneConfig, SelfRewardDPOConfig, SFTConfig

# The paper's batch of 16, in two forward passes of 8.
_BATCH_OF_16 = {"batch_size": 8, "grad_accum_steps": 2}


def create_default_paper_config(
    *,
    train_sft_dataset: Any,
    self_reward_prompt_dataset: Any,
    valid_sft_dataset: Any = None,
    num_generated_preference_pairs: tuple[int, int] = (3964, 6942),
    early_stopper_eval_module: Any = None,
    dpo_num_train_steps: int | None = None,
    sft_config: dict[str, Any] | None = None,
    self_reward_config: dict[str, Any] | None = None,
) -> list[FinetuneConfig]:
    """M1 = SFT, M2 and M3 = self-reward DPO on 3,964 and 6,942 pairs.

    self_reward_prompt_dataset: one data set for both iterations, or a pair of them.
    sft_config, self_reward_config: further arguments of SFTConfig and SelfRewardDPOConfig.
    """
    prompts = self_reward_prompt_dataset
    if not isinstance(prompts, tuple):
        prompts = (prompts, prompts)
    sft = {
        "train_dataset": train_sft_dataset,
        "valid_dataset": valid_sft_dataset,
        **_with_batch(checked_arguments("sft_config", sft_config or {}, SFTConfig)),
    }
    configs: list[FinetuneConfig] = [SFTConfig(**sft)]
    own = checked_arguments("self_reward_config", self_reward_config or {}, SelfRewardDPOConfig)
    for prompt_dataset, num_pairs in zip(prompts, num_generated_preference_pairs, strict=True):
        arguments: dict[str, Any] = {
            "prompt_dataset": prompt_dataset,
            "num_generated_preference_pairs": num_pairs,
            "early_stopper_eval_module": early_stopper_eval_module,
            "num_train_steps": dpo_num_train_steps,
            **_with_batch(own),
        }
        configs.append(SelfRewardDPOConfig(**arguments))
    return configs


def _with_batch(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "trainer_kwargs": {**_BATCH_OF_16, **config.get("trainer_kwargs", {})}}

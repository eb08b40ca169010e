"""SelfRewardingTrainer: a list of stage configs over one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from self_rewarding_lm_pytorch.callbacks import Callback
from self_rewarding_lm_pytorch.data.files import write_atomically
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.weights import save_weights
from self_rewarding_lm_pytorch.published.arguments import (
    accelerate_arguments,
    checked_arguments,
    one_dataset,
    told,
    with_padding,
)
from self_rewarding_lm_pytorch.published.configs import FinetuneConfig, SelfPlayConfig, SFTConfig
from self_rewarding_lm_pytorch.published.paper import create_default_paper_config
from self_rewarding_lm_pytorch.published.reward_config import DefaultRewardConfig, RewardConfig
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig
from self_rewarding_lm_pytorch.text import FunctionCodec

if TYPE_CHECKING:  # what runs plans is imported where one is made, so that importing the trainer costs less
    from self_rewarding_lm_pytorch.config import Plan
    from self_rewarding_lm_pytorch.pipeline import Summary


class SelfRewardingTrainer:
    """Fine-tunes `model` stage by stage; calling the trainer runs it.

    finetune_configs: a list of configs in any order, or a dict for create_default_paper_config.
    self_reward_prompt_config: how the judge is asked, one config or a dict of named ones.
    pad_id: a negative one marks right padding in id tensors; items padded with another need masks.
    trackers: as a plan's (names such as "tensorboard", or {name: {options}}).
    callbacks: called at stages and steps (`callbacks.Callback`).
    checkpoints_folder: the run folder. The model holds the final weights when the call returns.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        finetune_configs: dict[str, Any] | Sequence[FinetuneConfig | StageConfig],
        tokenizer_encode: Callable[[str], Any],
        tokenizer_decode: Callable[[Tensor], str],
        self_reward_prompt_config: RewardConfig | Mapping[str, RewardConfig] | None = None,
        pad_id: int = -1,
        checkpoints_folder: str | Path = "./checkpoints",
        accelerate_kwargs: Mapping[str, Any] | None = None,
        eos_id: int | None = None,
        trackers: Sequence[Any] = (),
        callbacks: Sequence[Callback] = (),
    ) -> None:
        from self_rewarding_lm_pytorch.config import Plan

        if isinstance(finetune_configs, dict):
            arguments = checked_arguments("finetune_configs", finetune_configs, create_default_paper_config)
            finetune_configs = create_default_paper_config(**arguments)
        self.model = model
        self.finetune_configs = _listed(finetune_configs)
        self.checkpoints_folder = Path(checkpoints_folder)
        self.reward_configs = _named(self_reward_prompt_config)
        self.pad_id = pad_id
        policy = policy_for(model)
        codec = FunctionCodec(tokenizer_encode, tokenizer_decode, eos_id=eos_id, vocab_size=policy.vocab_size)
        stages = [_stage(config, self.reward_configs, pad_id) for config in self.finetune_configs]
        self._plan = Plan(
            model=model,
            tokenizer=codec,
            run=self.checkpoints_folder,
            accelerate=accelerate_arguments("SelfRewardingTrainer", accelerate_kwargs),
            trackers=list(trackers),
            stages=stages,
        )
        self._callbacks = callbacks

    def __call__(self, overwrite_checkpoints: bool = False) -> Summary:
        """Runs (or continues) the stages; see `pipeline.run`.

        overwrite_checkpoints: True starts afresh. False continues an unfinished run of the same plan
        and refuses a finished one, before any training.
        """
        from self_rewarding_lm_pytorch.pipeline import run

        if not overwrite_checkpoints:
            refuse_finished(self._plan)
        return run(
            self._plan,
            fresh=overwrite_checkpoints,
            after_stage=self._save_stage,
            callbacks=self._callbacks,
        )

    def _save_stage(self, env: Environment, number: int, stage: StageConfig) -> None:
        save_stage_file(self.checkpoints_folder, env, number, stage)


def refuse_finished(plan: Plan) -> None:
    """Raises CheckpointError if the plan's run folder holds a finished run."""
    from self_rewarding_lm_pytorch.plans.text import plan_text
    from self_rewarding_lm_pytorch.run_folder import RunFolder

    folder = RunFolder(plan.run)
    if not (plan.run / "manifest.json").exists():
        return
    stages = [(stage.name, stage.kind) for stage in plan.stages]
    folder.open(plan_text(plan), plan.seed, stages, fresh=False)
    if folder.is_finished:
        raise CheckpointError(
            f"{plan.run} holds a finished run, which training again would overwrite; call with "
            "overwrite_checkpoints=True to begin afresh, or name another checkpoints folder"
        )


def save_stage_file(folder: Path, env: Environment, number: int, stage: StageConfig) -> None:
    """N.KIND.safetensors beside the stage folders."""
    target = folder / f"{number}.{stage.kind}.safetensors"
    write_atomically(target, lambda path: save_weights(env.policy.module, path))


def _named(config: RewardConfig | Mapping[str, RewardConfig] | None) -> dict[str, RewardConfig]:
    if config is None:
        return {"default": DefaultRewardConfig()}
    if isinstance(config, RewardConfig):
        return {"default": config}
    return dict(config)


def _listed(configs: Any) -> list[Any]:
    if isinstance(configs, Sequence) and configs and not isinstance(configs, str):
        return list(configs)
    given = "is empty" if isinstance(configs, Sequence) else f"is one {type(configs).__name__}"
    raise ConfigError(
        f"finetune_configs {given}; give a list of at least one config, such as [SFTConfig(...)]"
    )


def _stage(config: Any, rewards: Mapping[str, RewardConfig], pad_id: int) -> StageConfig:
    if isinstance(config, StageConfig):
        return config
    if isinstance(config, SFTConfig | SelfPlayConfig):
        config = replace(
            config,
            train_dataset=with_padding(one_dataset(config.train_dataset), pad_id),
            valid_dataset=with_padding(one_dataset(config.valid_dataset), pad_id),
        )
    if isinstance(config, FinetuneConfig):
        with told(type(config).__name__):
            return config.stage(rewards)
    raise ConfigError(f"finetune_configs holds {type(config).__name__}; expected configs such as SFTConfig")

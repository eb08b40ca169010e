"""SPINTrainer: self-play on its own, through the same pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.data.files import is_there
from self_rewarding_lm_pytorch.generation.filters import FilterFn, top_p
from self_rewarding_lm_pytorch.models.checkpoints import load_checkpoint
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.pipeline import Summary, run
from self_rewarding_lm_pytorch.published.arguments import (
    accelerate_arguments,
    one_dataset,
    told,
    with_padding,
)
from self_rewarding_lm_pytorch.published.configs import SelfPlayConfig
from self_rewarding_lm_pytorch.published.modules import SPIN
from self_rewarding_lm_pytorch.published.self_rewarding import refuse_finished, save_stage_file
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig
from self_rewarding_lm_pytorch.text import FunctionCodec

if TYPE_CHECKING:
    from accelerate import Accelerator


class SPINTrainer:
    """Trains on items (ids, prompt length or mask) against the frozen opponent's own responses.

    Arguments as in the published library; `epochs` passes over one iteration's pairs.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        train_sft_dataset: Any,
        max_seq_len: int,
        valid_sft_dataset: Any = None,
        valid_every: int = 100,
        accelerator: Accelerator | None = None,
        accelerate_kwargs: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        grad_accum_steps: int = 2,
        epochs: int = 2,
        start_learning_rate: float = 1e-6,
        end_learning_rate: float = 1e-7,
        learning_rate_num_decay_steps: int = 1000,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        adam_kwargs: Mapping[str, Any] | None = None,
        temperature: float = 0.7,
        filter_fn: FilterFn | None = top_p,
        filter_kwargs: Mapping[str, Any] | None = None,
        pad_id: int = -1,
        ref_model_ema_decay: float = 1.0,
        checkpoint_every: int | None = None,
        checkpoint_folder: str | Path = "./spin-checkpoints",
        spin_kwargs: Mapping[str, Any] | None = None,
        eos_id: int | None = None,
    ) -> None:
        spin = model if isinstance(model, SPIN) else None
        self.model = spin.policy_model if spin is not None else model
        self.checkpoint_folder = Path(checkpoint_folder)
        self.pad_id = pad_id
        self._spin = spin
        if spin is not None and ref_model_ema_decay == 1.0:
            ref_model_ema_decay = spin.ref_model_ema_decay
        if spin is not None and spin.pad_id is not None:
            pad_id = spin.pad_id
        config = SelfPlayConfig(
            train_dataset=with_padding(one_dataset(train_sft_dataset), pad_id),
            valid_dataset=with_padding(one_dataset(valid_sft_dataset), pad_id),
            max_seq_len=max_seq_len,
            dropout=dropout,
            temperature=temperature,
            filter_fn=filter_fn,
            filter_kwargs=dict(filter_kwargs or {}),
            beta=None if spin is None else spin.beta,
            spin_kwargs={"ref_model_ema_decay": ref_model_ema_decay, **(spin_kwargs or {})},
            trainer_kwargs={
                "batch_size": batch_size,
                "grad_accum_steps": grad_accum_steps,
                "epochs": epochs,
                "start_learning_rate": start_learning_rate,
                "end_learning_rate": end_learning_rate,
                "learning_rate_num_decay_steps": learning_rate_num_decay_steps,
                "weight_decay": weight_decay,
                "adam_kwargs": dict(adam_kwargs or {}),
                "valid_every": valid_every,
                "checkpoint_every": checkpoint_every,
            },
        )
        vocab_size = policy_for(self.model).vocab_size
        with told("SPINTrainer"):
            stage = config.stage({})
        self._plan = Plan(
            model=self.model,
            tokenizer=_IdsOnly(eos_id, vocab_size),
            run=self.checkpoint_folder,
            accelerate=accelerate_arguments("SPINTrainer", accelerate_kwargs),
            stages=[stage],
        )
        self._accelerator = accelerator

    def __call__(self, overwrite_checkpoints: bool = True) -> Summary:
        """Trains; False continues an unfinished run and refuses a finished one."""
        if not overwrite_checkpoints:
            refuse_finished(self._plan)
        initial = self.checkpoint_folder / "initial"
        if self._spin is not None and not overwrite_checkpoints and is_there(initial):
            load_checkpoint(self._spin.ref_model, initial)  # the policy may be half trained by now
        elif self._spin is not None:
            self._spin.update_reference_model_with_policy()
        return run(
            self._plan,
            fresh=overwrite_checkpoints,
            after_stage=self._save_stage,
            accelerator=self._accelerator,
        )

    def _save_stage(self, env: Environment, number: int, stage: StageConfig) -> None:
        save_stage_file(self.checkpoint_folder, env, number, stage)


class _IdsOnly(FunctionCodec):
    """SPIN's items are ids; text never comes up."""

    def __init__(self, eos_id: int | None, vocab_size: int | None) -> None:
        super().__init__(
            lambda text: [ord(char) for char in text],
            lambda ids: "",  # known by their ids alone
            eos_id=eos_id,
            vocab_size=vocab_size,
        )

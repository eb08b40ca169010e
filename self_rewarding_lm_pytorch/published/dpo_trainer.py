"""DPOTrainer: DPO on given pairs, through the same loop; it keeps no run folder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.items import given_pairs
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.published.arguments import (
    accelerate_arguments,
    beta_of,
    told,
    training_settings,
    with_padding,
)
from self_rewarding_lm_pytorch.published.defaults import DPO_DEFAULTS, EPOCHS_UNTIL_STOPPED
from self_rewarding_lm_pytorch.published.modules import DPO
from self_rewarding_lm_pytorch.stages.base import Environment, StageRun
from self_rewarding_lm_pytorch.stages.dpo import PairTraining
from self_rewarding_lm_pytorch.stages.pairs import train_on_pairs
from self_rewarding_lm_pytorch.training.accelerator import make_accelerator
from self_rewarding_lm_pytorch.training.early_stopping import EarlyStopper
from self_rewarding_lm_pytorch.training.metrics import MetricsLog
from self_rewarding_lm_pytorch.training.reference import LiveReference

if TYPE_CHECKING:
    from accelerate import Accelerator


class DPOTrainer:
    """Trains on items (preferred ids, unpreferred ids, prompt length).

    model: a module, or a DPO module, whose reference and beta are then used.
    dataset_generator: a function without arguments that makes the data set when training starts.
    num_train_steps: None is one pass over the pairs, or, with an evaluation module, as many as 10.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dataset_generator: Callable[[], Any] | None = None,
        accelerator: Accelerator | None = None,
        batch_size: int = 16,
        grad_accum_steps: int = 2,
        num_decay_steps: int = 1000,
        num_train_steps: int | None = None,
        weight_decay: float = 0.0,
        train_dataset: Any = None,
        valid_dataset: Any = None,
        start_learning_rate: float = 1e-6,
        end_learning_rate: float = 1e-7,
        early_stopper: EarlyStopper | None = None,
        dropout: float = 0.1,
        check_early_stop_every: int = 200,
        early_stopper_eval_module: Any = None,
        adam_kwargs: Mapping[str, Any] | None = None,
        accelerate_kwargs: Mapping[str, Any] | None = None,
        dpo_kwargs: Mapping[str, Any] | None = None,
        early_stopper_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if (dataset_generator is None) == (train_dataset is None):
            raise ConfigError("DPOTrainer needs either train_dataset or dataset_generator, and not both")
        self._dpo = model if isinstance(model, DPO) else None
        self.model = self._dpo.policy_model if self._dpo is not None else model
        self._data = train_dataset
        self._make_data = dataset_generator
        self._valid = valid_dataset
        self._stopper = early_stopper if early_stopper is not None else early_stopper_eval_module
        self._accelerator = accelerator
        self._accelerate_kwargs = accelerate_arguments("DPOTrainer", accelerate_kwargs)
        dpo = dict(dpo_kwargs or {})
        own_beta = 0.1 if self._dpo is None else self._dpo.beta
        own_decay = 1.0 if self._dpo is None else self._dpo.ref_model_ema_decay
        decay = dpo.get("ref_model_ema_decay", own_decay)
        if self._dpo is not None and decay != own_decay:
            raise ConfigError(
                f"the DPO module's reference has ref_model_ema_decay {own_decay}, dpo_kwargs says {decay}; "
                "give it to the DPO module alone"
            )
        self._pad_id = dpo.get("pad_id", None if self._dpo is None else self._dpo.pad_id)
        settings = training_settings(
            "DPOTrainer",
            {
                "batch_size": batch_size,
                "grad_accum_steps": grad_accum_steps,
                "weight_decay": weight_decay,
                "start_learning_rate": start_learning_rate,
                "end_learning_rate": end_learning_rate,
                "adam_kwargs": dict(adam_kwargs or {}),
                "early_stopper_kwargs": dict(early_stopper_kwargs or {}),
            },
            DPO_DEFAULTS,
        )
        settings |= {
            "beta": beta_of("DPOTrainer.dpo_kwargs", dpo, own_beta, ["ref_model_ema_decay", "pad_id"]),
            "reference_ema_decay": decay,
            "num_steps": num_train_steps,
            "num_decay_steps": num_decay_steps,
            "epochs": EPOCHS_UNTIL_STOPPED if self._stopper is not None else 1,
            "early_stop_every": check_early_stop_every,
            "early_stop_kwargs": dict(early_stopper_kwargs or {}),
            "dropout": dropout,
        }
        with told("DPOTrainer"):
            self._settings = PairTraining.model_validate(settings)

    def __call__(self) -> dict[str, float]:
        """Trains the model in place; returns the last metrics."""
        accelerator = self._accelerator or make_accelerator(self._accelerate_kwargs)
        policy = policy_for(self.model)
        policy.module.to(accelerator.device)
        processes.share_weights(policy.module)
        policy.autocast = accelerator.autocast
        env = Environment(policy, None, 0, accelerator, Reporter(), save_every_seconds=math.inf)
        source = self._data if self._make_data is None else self._make_data()
        pairs = given_pairs(with_padding(source, self._pad_id), policy, None)
        held_out = with_padding(self._valid, self._pad_id)
        valid = given_pairs(held_out, policy, None) if held_out is not None else []
        with tempfile.TemporaryDirectory() as scratch:
            run = StageRun(env, 1, "dpo", Path(scratch), MetricsLog(Path(scratch) / "metrics.jsonl", "dpo"))
            outcome = train_on_pairs(
                run,
                pairs,
                self._settings,
                valid=valid,
                early_stopper=self._stopper,
                reference=self._own_reference(policy.autocast),
            )
        return outcome.metrics

    def _own_reference(self, autocast: Callable[[], AbstractContextManager[Any]]) -> LiveReference | None:
        """A DPO module brings its snapshot; a plain module's is taken when training starts."""
        if self._dpo is None:
            return None
        self._dpo.ref_model.to(next(self.model.parameters()).device)
        processes.share_weights(self._dpo.ref_model)
        self._dpo.reference.policy.autocast = autocast
        return self._dpo.reference

"""What the published trainers take when nothing is said, and which keys they know."""

from __future__ import annotations

from typing import Any

SFT_DEFAULTS: dict[str, Any] = {
    "batch_size": 16,
    "grad_accum_steps": 2,
    "num_epochs": 3,
    "start_learning_rate": 5.5e-6,
    "end_learning_rate": 1.1e-6,
    "learning_rate_num_decay_steps": None,
    "weight_decay": 0.0,
    "adam_kwargs": {},
    "valid_every": 1,
    "ignore_index": -1,
}
DPO_DEFAULTS: dict[str, Any] = {
    "batch_size": 16,
    "grad_accum_steps": 2,
    "num_decay_steps": 1000,
    "num_train_steps": None,
    "weight_decay": 0.0,
    "start_learning_rate": 1e-6,
    "end_learning_rate": 1e-7,
    "check_early_stop_every": 200,
    "early_stopper_kwargs": {},
    "adam_kwargs": {},
    "dpo_kwargs": {},
}
SPIN_DEFAULTS: dict[str, Any] = {
    "batch_size": 16,
    "grad_accum_steps": 2,
    "epochs": 2,
    "start_learning_rate": 1e-6,
    "end_learning_rate": 1e-7,
    "learning_rate_num_decay_steps": 1000,
    "weight_decay": 0.0,
    "adam_kwargs": {},
    "valid_every": 100,
    "checkpoint_every": None,
    "spin_kwargs": {},
}
GENERATOR_KEYS = ("batch_size", "generate_reward_max_seq_len", "preference_max_seq_len")
EPOCHS_UNTIL_STOPPED = 10  # with a stopper and no number of steps

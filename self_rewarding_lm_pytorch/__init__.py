"""Self-rewarding language models: a model that answers, judges its own answers, and learns from it.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "1.0.0"

_NAMES = {
    "SelfRewardingTrainer": "published.self_rewarding",
    "SPINTrainer": "published.spin_trainer",
    "DPOTrainer": "published.dpo_trainer",
    "SPIN": "published.modules",
    "DPO": "published.modules",
    "RewardConfig": "published.configs",
    "SFTConfig": "published.configs",
    "SelfRewardDPOConfig": "published.configs",
    "ExternalRewardDPOConfig": "published.configs",
    "SelfPlayConfig": "published.configs",
    "create_default_paper_config": "published.paper",
    "create_mock_dataset": "published.mock",
    "run": "pipeline",
    "Callback": "callbacks",
    "load_checkpoint": "models.checkpoints",
    "top_p": "generation.filters",
    "top_k": "generation.filters",
    "min_p": "generation.filters",
}

__all__ = [
    "DPO",
    "SPIN",
    "Callback",
    "DPOTrainer",
    "ExternalRewardDPOConfig",
    "RewardConfig",
    "SFTConfig",
    "SPINTrainer",
    "SelfPlayConfig",
    "SelfRewardDPOConfig",
    "SelfRewardingTrainer",
    "create_default_paper_config",
    "create_mock_dataset",
    "load_checkpoint",
    "min_p",
    "run",
    "top_k",
    "top_p",
]

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.callbacks import Callback
    from self_rewarding_lm_pytorch.generation.filters import min_p, top_k, top_p
    from self_rewarding_lm_pytorch.models.checkpoints import load_checkpoint
    from self_rewarding_lm_pytorch.pipeline import run
    from self_rewarding_lm_pytorch.published.configs import (
        ExternalRewardDPOConfig,
        RewardConfig,
        SelfPlayConfig,
        SelfRewardDPOConfig,
        SFTConfig,
    )
    from self_rewarding_lm_pytorch.published.dpo_trainer import DPOTrainer
    from self_rewarding_lm_pytorch.published.mock import create_mock_dataset
    from self_rewarding_lm_pytorch.published.modules import DPO, SPIN
    from self_rewarding_lm_pytorch.published.paper import create_default_paper_config
    from self_rewarding_lm_pytorch.published.self_rewarding import SelfRewardingTrainer
    from self_rewarding_lm_pytorch.published.spin_trainer import SPINTrainer


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_NAMES]

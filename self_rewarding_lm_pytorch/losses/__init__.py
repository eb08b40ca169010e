"""Losses: pure functions of log-probs. They know no model, device, data set or logger."""

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss
from self_rewarding_lm_pytorch.losses.mixes import preference_loss
from self_rewarding_lm_pytorch.losses.table import PREFERENCE_LOSSES

__all__ = ["PREFERENCE_LOSSES", "PreferenceLoss", "preference_loss"]

"""Losses: pure functions of log-probs. They know no model, device, data set or logger."""

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss, Range
from self_rewarding_lm_pytorch.losses.mixes import preference_loss
from self_rewarding_lm_pytorch.losses.own import loss_named
from self_rewarding_lm_pytorch.losses.table import PREFERENCE_LOSSES

__all__ = ["PREFERENCE_LOSSES", "PreferenceLoss", "Range", "loss_named", "preference_loss"]

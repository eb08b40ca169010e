"""Losses: pure functions of log-probs. They know no model, device, data set or logger."""

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss
from self_rewarding_lm_pytorch.registry import Registry

_HERE = "self_rewarding_lm_pytorch.losses.preference"

PREFERENCE_LOSSES: Registry[PreferenceLoss] = Registry(
    "preference loss",
    {
        "dpo": f"{_HERE}:DPO",
        "ipo": f"{_HERE}:IPO",
        "hinge": f"{_HERE}:HINGE",
        "spin": f"{_HERE}:SPIN",
    },
)

"""What a run sends to trackers (tensorboard, wandb, trackio and accelerate's others) besides its folder."""

from self_rewarding_lm_pytorch.trackers.connected import Trackers

__all__ = ["Trackers"]

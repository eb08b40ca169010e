"""Half precision: what is refused, what is warned of, and that a copy computes like its original."""

import pytest
import torch

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.plain import PlainPolicy
from self_rewarding_lm_pytorch.training.accelerator import make_accelerator
from self_rewarding_lm_pytorch.training.optimizer import half_precision_warning


def test_weights_that_train_in_bfloat16_are_warned_of_and_float32_ones_are_not() -> None:
    module = torch.nn.Linear(2, 2)
    assert half_precision_warning(module) is None
    assert "bfloat16" in str(half_precision_warning(module.bfloat16()))
    assert half_precision_warning(module.requires_grad_(False)) is None


@pytest.mark.parametrize("arguments", [{"mixed_precision": "fp16"}, {"log_with": "tensorboard"}])
def test_accelerate_arguments_that_would_not_act_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments.values()))):
        make_accelerator(arguments)


def test_a_copied_policy_keeps_its_mixed_precision() -> None:
    policy = PlainPolicy(torch.nn.Linear(2, 2))
    policy.autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    assert policy.copy().autocast is policy.autocast

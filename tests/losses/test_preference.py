"""Preference losses against numbers worked by hand, and gradients against their formulas.

The pair used throughout: log p(chosen) = -10, log p(rejected) = -14, the reference -12 and -13. So
the log-ratios are 2 and -1, and h = 3.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES
from self_rewarding_lm_pytorch.losses.preference import log_ratio_difference
from self_rewarding_lm_pytorch.records import PairLogProbs


def pair(chosen: float, rejected: float, reference_chosen: float, reference_rejected: float) -> PairLogProbs:
    values = (chosen, rejected, reference_chosen, reference_rejected)
    tensors = [torch.tensor([v], dtype=torch.float64) for v in values]
    return PairLogProbs(*tensors, chosen_lengths=torch.tensor([5]), rejected_lengths=torch.tensor([7]))


EXAMPLE = (-10.0, -14.0, -12.0, -13.0)


def test_the_log_ratio_difference_is_three() -> None:
    """(-10 - -12) - (-14 - -13) = 2 - -1 = 3."""
    assert log_ratio_difference(pair(*EXAMPLE)).tolist() == [3]


@pytest.mark.parametrize(
    ("name", "beta", "expected"),
    [
        ("dpo", 0.1, math.log(1 + math.exp(-0.3))),  # -log sigmoid(0.1 * 3) = 0.554355
        ("dpo", 1.0, math.log(1 + math.exp(-3.0))),
        ("spin", 0.1, math.log(1 + math.exp(-0.3))),  # SPIN's logistic loss is DPO's
        ("ipo", 0.1, 4.0),  # (3 - 1 / 0.2)^2 = (-2)^2
        ("ipo", 0.5, 4.0),  # (3 - 1)^2
        ("hinge", 0.1, 0.7),  # 1 - 0.3
        ("hinge", 1.0, 0.0),  # max(0, 1 - 3)
    ],
)
def test_each_loss_has_its_hand_worked_value(name: str, beta: float, expected: float) -> None:
    assert PREFERENCE_LOSSES[name](pair(*EXAMPLE), beta).tolist() == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize(
    ("name", "beta", "slope"),
    [
        ("dpo", 0.1, -0.1 / (1 + math.exp(0.3))),  # d/dh -log sigmoid(bh) = -b sigmoid(-bh)
        ("spin", 2.0, -2.0 / (1 + math.exp(6.0))),
        ("ipo", 0.1, -4.0),  # 2 (3 - 5)
        ("hinge", 0.1, -0.1),
        ("hinge", 1.0, 0.0),  # past the hinge
    ],
)
def test_each_gradient_pulls_chosen_up_and_rejected_down(name: str, beta: float, slope: float) -> None:
    """dh/dchosen = 1 and dh/drejected = -1, so the gradients are +slope and -slope."""
    example = pair(*EXAMPLE)
    example.chosen.requires_grad_()
    example.rejected.requires_grad_()
    PREFERENCE_LOSSES[name](example, beta).sum().backward()
    assert example.chosen.grad is not None
    assert example.rejected.grad is not None
    assert example.chosen.grad.item() == pytest.approx(slope, abs=1e-12)
    assert example.rejected.grad.item() == pytest.approx(-slope, abs=1e-12)


@pytest.mark.parametrize("name", list(PREFERENCE_LOSSES))
def test_gradients_agree_with_finite_differences(name: str) -> None:
    def value(*inputs: Tensor) -> Tensor:
        lengths = torch.tensor([5, 5, 5])
        return PREFERENCE_LOSSES[name](PairLogProbs(*inputs, lengths, lengths), 0.3)

    inputs = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
@pytest.mark.parametrize("name", ["dpo", "spin"])
def test_a_policy_that_is_its_reference_has_a_loss_of_ln_2(name: str, beta: float) -> None:
    found = PREFERENCE_LOSSES[name](pair(-3.0, -8.0, -3.0, -8.0), beta)
    assert found.item() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize(("name", "at_reference"), [("ipo", 25.0), ("hinge", 1.0)])
def test_the_other_losses_at_the_reference(name: str, at_reference: float) -> None:
    """IPO: (0 - 1 / 0.2)^2 = 25; hinge: 1 - 0."""
    assert PREFERENCE_LOSSES[name](pair(-3.0, -8.0, -3.0, -8.0), 0.1).item() == pytest.approx(at_reference)


@pytest.mark.parametrize("name", ["dpo", "spin"])
def test_extreme_differences_stay_finite(name: str) -> None:
    """-log sigmoid(-1e4) = 1e4; the naive log(sigmoid(x)) would be infinite."""
    assert PREFERENCE_LOSSES[name](pair(-1e4, 0.0, 0.0, 0.0), 1.0).item() == pytest.approx(1e4)
    assert PREFERENCE_LOSSES[name](pair(0.0, -1e4, 0.0, 0.0), 1.0).item() == pytest.approx(0.0)


@pytest.mark.parametrize("name", list(PREFERENCE_LOSSES))
def test_each_pair_has_a_loss_of_its_own(name: str) -> None:
    first, second = EXAMPLE, (-1.0, -2.0, -2.0, -2.5)
    both = PairLogProbs(
        *[torch.tensor(column, dtype=torch.float64) for column in zip(first, second, strict=True)],
        chosen_lengths=torch.tensor([5, 5]),
        rejected_lengths=torch.tensor([7, 7]),
    )
    loss: Callable[..., Tensor] = PREFERENCE_LOSSES[name]
    assert loss(both, 0.2).tolist() == [loss(pair(*first), 0.2).item(), loss(pair(*second), 0.2).item()]


def test_an_unknown_loss_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'dop'.*dpo, hinge, ipo, spin.*Did you mean 'dpo'"):
        PREFERENCE_LOSSES["dop"]

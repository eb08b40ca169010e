"""Preference losses against numbers worked by hand, and gradients against their formulas.

The pair used throughout: log p(chosen) = -10, log p(rejected) = -14, the reference -12 and -13. So
the log-ratios are 2 and -1, and h = 3. The responses have 5 and 7 tokens.
"""

import math
import re

import pytest
import torch

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES, preference_loss
from self_rewarding_lm_pytorch.losses.preference import log_ratio_difference
from tests.losses.worlds import EXAMPLE, NAMES, pairs, slopes

LN2 = math.log(2)


def softplus(x: float) -> float:
    """log(1 + e^x), which is -log sigmoid(-x)."""
    return math.log(1 + math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_log_ratio_difference_is_three() -> None:
    """(-10 - -12) - (-14 - -13) = 2 - -1 = 3."""
    assert log_ratio_difference(pairs(EXAMPLE)).tolist() == [3]


@pytest.mark.parametrize(
    ("name", "beta", "options", "expected"),
    [
        ("dpo", 0.1, {}, softplus(-0.3)),  # -log sigmoid(0.1 * 3) = 0.554355
        ("dpo", 1.0, {}, softplus(-3.0)),
        ("spin", 0.1, {}, softplus(-0.3)),  # SPIN's logistic loss is DPO's
        ("ipo", 0.1, {}, 4.0),  # (3 - 1 / 0.2)^2 = (-2)^2
        ("ipo", 0.5, {}, 4.0),  # (3 - 1)^2
        ("hinge", 0.1, {}, 0.7),  # 1 - 0.3
        ("hinge", 1.0, {}, 0.0),  # max(0, 1 - 3)
        # x = 1.5, sigmoid(1.5 / 0.5) = 0.952574: 0.047426 * 0.201413 + 0.952574 * 0.223130
        ("discopop", 0.5, {"discopop_tau": 0.5}, 0.222100),
        # -log sigmoid(1.5) = 0.201413, -log sigmoid(-1.5) = 1.701413
        ("conservative", 0.5, {"label_smoothing": 0.1}, 0.351413),  # 0.181272 + 0.170141
        ("robust", 0.5, {"label_smoothing": 0.1}, 0.013914),  # (0.181272 - 0.170141) / 0.8
        # q = sigmoid(1.5) = 0.817574: 0.817574 ln(0.817574 / 0.9) + 0.182426 ln(0.182426 / 0.1)
        ("exo_pair", 0.5, {"label_smoothing": 0.1}, 0.109668 - 0.078529),
        # rewards 1 and -0.5: 0.313262 + 1.313262 / 2 + 0.474077 / 2
        ("nca_pair", 0.5, {}, 1.206931),
        # the mean reward is 0.25, so both stand 0.75 on their side of it
        ("bco_pair", 0.5, {}, 2 * softplus(-0.75)),
        ("bco_pair", 0.5, {"shift": 0}, 0.787339),  # 0.313262 + 0.474077
        ("bco_pair", 0.5, {"shift": 0.5}, softplus(-0.5) + softplus(-1)),  # 1 - 0.5 and 0.5 - -0.5
        ("sppo_hard", 0.1, {}, 25.0),  # (2 - 5)^2 + (-1 + 5)^2
        ("sppo_hard", 0.5, {}, 1.0),  # (2 - 1)^2 + (-1 + 1)^2
        ("apo_zero", 0.5, {}, 0.646482),  # sigmoid(-1) + sigmoid(-0.5) = 0.268941 + 0.377541
        ("apo_down", 0.5, {}, 0.913485),  # sigmoid(1) + sigmoid(-1.5) = 0.731059 + 0.182426
        # per token the log-ratios are 2/5 and -1/7, h = 19/35
        ("sigmoid_norm", 3.5, {}, softplus(-1.9)),
        ("ipo_norm", 0.5, {}, (16 / 35) ** 2),
        ("simpo", 2.0, {"gamma": 1}, softplus(1)),  # both are -2 per token: only gamma is left
        ("nll", 0.1, {}, 2.0),  # 10 / 5
        # P = e^-2 of both: equal odds, so nll + lambda ln 2
        ("orpo", 0.3, {}, 2 + 0.3 * LN2),
        ("odpo", 0.5, {"alpha": 0.5}, softplus(-0.5)),  # 0.5 * 3 - 0.5 * 2
        # a batch of one has nothing to sort
        ("aot", 0.5, {}, softplus(-1.5)),
        ("aot", 0.5, {"label_smoothing": 0.1}, 0.351413),
        ("aot_unpaired", 0.5, {}, softplus(-1.5)),
    ],
)
def test_each_loss_has_its_hand_worked_value(
    name: str, beta: float, options: dict[str, float], expected: float
) -> None:
    found = preference_loss(name, **options)(pairs(EXAMPLE), beta)
    # hand-worked decimals have six places
    assert found.tolist() == pytest.approx([expected], abs=1e-6)


def test_simpo_reads_the_difference_per_token() -> None:
    """-5 / 5 - -21 / 7 = 2, and 2 * 2 - 1 = 3. The reference is not read."""
    found = PREFERENCE_LOSSES["simpo"](pairs((-5.0, -21.0, math.nan, math.nan)), 2.0)
    assert found.item() == pytest.approx(softplus(-3), abs=1e-12)


def test_orpo_compares_odds_of_the_mean_token() -> None:
    """Every token 1/2 against 1/4: odds 1 and 1/3, ratio 3; -log sigmoid(ln 3) = ln(4/3)."""
    row = (5 * math.log(1 / 2), 7 * math.log(1 / 4), math.nan, math.nan)
    found = PREFERENCE_LOSSES["orpo"](pairs(row), 0.5)
    assert found.item() == pytest.approx(LN2 + 0.5 * math.log(4 / 3), abs=1e-12)


def test_aot_compares_sorted_differences_with_sorted_differences() -> None:
    """Policy 4, 1 and reference 1, 2: sorted 1, 4 and 1, 2, so 0 and 2. Pair by pair: 3 and -1."""
    found = PREFERENCE_LOSSES["aot"](pairs((-10, -14, -12, -13), (-6, -7, -6, -8)), 1.0)
    assert found.tolist() == pytest.approx([LN2, softplus(-2)], abs=1e-12)


def test_aot_unpaired_compares_sorted_chosen_with_sorted_rejected() -> None:
    """Log-ratios 2, 0 and -1, 1: sorted 0, 2 and -1, 1, so 1 and 1. Pair by pair: 3 and -1."""
    found = PREFERENCE_LOSSES["aot_unpaired"](pairs((-10, -14, -12, -13), (-6, -7, -6, -8)), 1.0)
    assert found.tolist() == pytest.approx([softplus(-1)] * 2, abs=1e-12)


def test_bco_shifts_by_the_mean_reward_of_the_batch() -> None:
    """Log-ratios 2, -1 and 0, 1, their mean 0.5: 1.5 and 1.5 on the right side, 0.5 and 0.5 on the wrong."""
    found = PREFERENCE_LOSSES["bco_pair"](pairs((-10, -14, -12, -13), (-6, -7, -6, -8)), 1.0)
    assert found.tolist() == pytest.approx([2 * softplus(-1.5), 2 * softplus(0.5)], abs=1e-12)


@pytest.mark.parametrize(
    ("name", "beta", "slope"),
    [
        ("dpo", 0.1, -0.1 * sigmoid(-0.3)),  # d/dh -log sigmoid(bh) = -b sigmoid(-bh)
        ("spin", 2.0, -2.0 * sigmoid(-6)),
        ("ipo", 0.1, -4.0),  # 2 (3 - 5)
        ("hinge", 0.1, -0.1),
        ("hinge", 1.0, 0.0),  # past the hinge
        ("conservative", 1.0, -0.9 * sigmoid(-3) + 0.1 * sigmoid(3)),
        ("robust", 1.0, (-0.9 * sigmoid(-3) - 0.1 * sigmoid(3)) / 0.8),
    ],
)
def test_the_gradients_of_a_difference_are_its_slope_up_and_down(
    name: str, beta: float, slope: float
) -> None:
    """dh/dchosen = 1 and dh/drejected = -1, so the gradients are +slope and -slope."""
    chosen, rejected = slopes(pairs(EXAMPLE), name, beta)
    assert chosen.item() == pytest.approx(slope, abs=1e-12)
    assert rejected.item() == pytest.approx(-slope, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "beta", "of_chosen", "of_rejected"),
    [
        # rewards 1 and -0.5, each slope times beta
        ("nca_pair", 0.5, 0.5 * (-sigmoid(-1) + sigmoid(1) / 2), 0.5 * sigmoid(-0.5) / 2),
        # the shift, 0.25, is a constant
        ("bco_pair", 0.5, -0.5 * sigmoid(-0.75), 0.5 * sigmoid(-0.75)),
        ("sppo_hard", 0.1, -6.0, 8.0),  # 2 (2 - 5), 2 (-1 + 5)
        ("nll", 0.1, -1 / 5, 0.0),
        ("simpo", 2.0, -2 / 5 * sigmoid(1), 2 / 7 * sigmoid(1)),
    ],
)
def test_the_gradients_of_each_response_by_itself(
    name: str, beta: float, of_chosen: float, of_rejected: float
) -> None:
    chosen, rejected = slopes(pairs(EXAMPLE), name, beta)
    assert (chosen.item(), rejected.item()) == pytest.approx((of_chosen, of_rejected), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "at_reference"),
    [
        ("dpo", LN2),
        ("spin", LN2),
        ("ipo", 25.0),  # (0 - 1 / 0.2)^2
        ("ipo_norm", 25.0),
        ("hinge", 1.0),
        ("discopop", LN2 / 2 + 1 / 2),
        ("conservative", LN2),
        ("robust", LN2),
        ("exo_pair", -LN2 - (math.log(0.999) + math.log(0.001)) / 2),  # KL of a fair coin from the label
        ("nca_pair", 2 * LN2),
        ("bco_pair", 2 * LN2),
        ("sppo_hard", 50.0),  # 5^2 + 5^2
        ("apo_zero", 1.0),
        ("apo_down", 1.0),
        ("aot", LN2),
        ("aot_unpaired", LN2),
        ("sigmoid_norm", LN2),
    ],
)
def test_a_policy_that_is_its_reference_has_a_known_loss(name: str, at_reference: float) -> None:
    found = PREFERENCE_LOSSES[name](pairs((-3, -8, -3, -8), (-9, -2, -9, -2)), 0.1)
    assert found.tolist() == pytest.approx([at_reference] * 2, abs=1e-12)


def test_every_loss_bears_the_name_it_is_found_by() -> None:
    assert [PREFERENCE_LOSSES[name].name for name in NAMES] == NAMES
    assert PREFERENCE_LOSSES["sft"] is PREFERENCE_LOSSES["nll"]


def test_every_loss_tells_its_equation_and_source() -> None:
    for name in NAMES:
        says = PREFERENCE_LOSSES[name].value.__doc__ or ""
        assert re.search(r"\b2\d{3}\.\d{5}\b|no arXiv number", says), name


def test_an_unknown_loss_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'dop'.*conservative, .*dpo, .*hinge, ipo.*Did you mean 'dpo'"):
        PREFERENCE_LOSSES["dop"]


def test_probability_one_per_token_leaves_orpo_finite() -> None:
    """Where log P is 0 the odds are infinite; they are read at the largest number below one."""
    for row in ((0.0, -7.0, 0.0, 0.0), (-5.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)):
        example = pairs(row)
        assert torch.isfinite(PREFERENCE_LOSSES["orpo"](example, 0.1)).all()
        assert all(torch.isfinite(slope).all() for slope in slopes(example, "orpo", 0.1))

"""Where one preference loss becomes another, where each rests, and what bounds it."""

import math

import pytest
import torch

from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES, preference_loss
from self_rewarding_lm_pytorch.records import PairLogProbs
from tests.losses.worlds import pairs, random_pairs, slopes


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("conservative", {"label_smoothing": 0}),
        ("robust", {"label_smoothing": 0}),
        ("odpo", {"alpha": 0}),
        ("spin", {}),
    ],
)
def test_these_are_dpo_in_the_limit(name: str, options: dict[str, float]) -> None:
    example = random_pairs(8)
    found = preference_loss(name, **options)(example, 0.7)
    assert torch.allclose(found, PREFERENCE_LOSSES["dpo"](example, 0.7), atol=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.49])
def test_the_mean_of_robust_over_swapped_labels_is_dpo_of_the_true_ones(share: float) -> None:
    example = random_pairs(8)
    swapped = PairLogProbs(
        example.rejected,
        example.chosen,
        example.reference_rejected,
        example.reference_chosen,
        example.rejected_lengths,
        example.chosen_lengths,
    )
    loss = preference_loss("robust", label_smoothing=share)
    mean = (1 - share) * loss(example, 0.7) + share * loss(swapped, 0.7)
    assert torch.allclose(mean, PREFERENCE_LOSSES["dpo"](example, 0.7), atol=1e-10)


def test_robust_has_no_lower_bound() -> None:
    """Past the label, -e log sigmoid(-x) grows: its loss at x = 1e4 is -0.1 * 1e4 / 0.8."""
    assert PREFERENCE_LOSSES["robust"](pairs((0, -1e4, 0, 0)), 1.0).item() == pytest.approx(-1250)


@pytest.mark.parametrize("share", [0.01, 0.2])
@pytest.mark.parametrize("name", ["conservative", "exo_pair"])
def test_smoothed_losses_rest_where_the_policy_agrees_with_the_label(name: str, share: float) -> None:
    """sigmoid(x) = 1 - e at x = log((1 - e) / e); EXO's divergence is zero there."""
    x = math.log((1 - share) / share)
    loss = preference_loss(name, label_smoothing=share)
    at, before, after = (loss(pairs((0, -some, 0, 0)), 1.0).item() for some in (x, x - 0.1, x + 0.1))
    assert at < before
    assert at < after
    if name == "exo_pair":
        assert at == pytest.approx(0, abs=1e-12)


def test_a_sharp_discopop_is_logistic_on_the_wrong_side_and_exponential_on_the_right() -> None:
    loss = preference_loss("discopop", discopop_tau=1e-4)
    wrong, right = pairs((-3, -1, 0, 0)), pairs((-1, -3, 0, 0))
    assert loss(wrong, 0.5).item() == pytest.approx(math.log(1 + math.e), abs=1e-12)
    assert loss(right, 0.5).item() == pytest.approx(math.exp(-1), abs=1e-12)


@pytest.mark.parametrize(("name", "h"), [("ipo", 2.5), ("ipo_norm", 2.5)])
def test_ipo_rests_at_its_margin_and_pulls_back_beyond(name: str, h: float) -> None:
    """1 / (2 * 0.2) = 2.5; five tokens of the one response, seven of the other."""
    factor = 1 if name == "ipo" else 5
    for gap, sign in ((h - 0.1, -1), (h, 0), (h + 0.1, 1)):
        chosen, _ = slopes(pairs((factor * gap, 0, 0, 0)), name, 0.2)
        assert chosen.round(decimals=9).sign().item() == sign

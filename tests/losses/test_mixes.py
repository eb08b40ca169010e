"""Options, mixes and margins: what a plan may say of a preference loss."""

import math
from dataclasses import replace
from typing import Annotated, Any, get_args, get_type_hints

import pytest
import torch

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES, PreferenceLoss, preference_loss
from self_rewarding_lm_pytorch.losses.base import Range
from self_rewarding_lm_pytorch.records import PairLogProbs
from tests.losses.worlds import EXAMPLE, NAMES, pairs, random_pairs


def test_options_are_the_functions_own_and_start_at_its_defaults() -> None:
    assert PREFERENCE_LOSSES["dpo"].options == {}
    assert PREFERENCE_LOSSES["exo_pair"].options == {"label_smoothing": 1e-3}
    assert PREFERENCE_LOSSES["bco_pair"].options == {"shift": None}


def test_a_loss_with_options_leaves_the_one_it_came_from_alone() -> None:
    loss = PREFERENCE_LOSSES["simpo"]
    other = loss.with_options(gamma=2.0)
    assert (loss.options, other.options) == ({"gamma": 1.0}, {"gamma": 2.0})
    assert other.with_options(gamma=3).options == {"gamma": 3}
    assert not torch.equal(loss(random_pairs(), 2.0), other(random_pairs(), 2.0))


def test_options_given_one_after_the_other_add_up() -> None:
    def scaled(
        logprobs: PairLogProbs,
        beta: float,
        *,
        factor: Annotated[float, Range(0)] = 1.0,
        offset: Annotated[float, Range()] = 0.0,
    ) -> torch.Tensor:
        return factor * logprobs.chosen + offset

    loss = PreferenceLoss("scaled", scaled).with_options(factor=2).with_options(offset=-3)
    assert loss(pairs(EXAMPLE), 0.1).tolist() == [2 * -10 - 3]


@pytest.mark.parametrize("name", NAMES)
def test_every_default_is_in_the_range_of_its_option(name: str) -> None:
    loss = PREFERENCE_LOSSES[name]
    hints = get_type_hints(loss.value, include_extras=True)
    for option, value in loss.options.items():
        allowed = get_args(hints[option])[1]
        assert isinstance(allowed, Range), f"{option} of {name} has no range"
        assert loss.with_options(**{option: value}).options == loss.options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("robust", {"label_smothing": 0.1}, r"'label_smothing'.*Did you mean 'label_smoothing'"),
        ("dpo", {"gamma": 1.0}, r"dpo has no options but was given 'gamma'; leave it out"),
        ("robust", {"label_smoothing": 0.5}, r"label_smoothing of robust is 0.5; give .* 0 <= x < 0.5"),
        ("conservative", {"label_smoothing": -0.1}, r"is -0.1; give"),
        ("exo_pair", {"label_smoothing": 0}, r"label_smoothing of exo_pair is 0; give .* 0 < x < 0.5"),
        ("discopop", {"discopop_tau": 0.0}, r"discopop_tau of discopop is 0.0; give .* 0 < x < 1"),
        ("simpo", {"gamma": "half"}, r"gamma of simpo is 'half'; give a number x with 0 <= x < inf"),
        ("simpo", {"gamma": math.nan}, r"gamma of simpo is nan"),
        ("simpo", {"gamma": math.inf}, r"gamma of simpo is inf"),
        ("simpo", {"gamma": None}, r"gamma of simpo is None"),
        ("simpo", {"gamma": True}, r"gamma of simpo is True"),
        ("bco_pair", {"shift": -math.inf}, r"shift of bco_pair is -inf; give a number x with -inf < x < inf"),
    ],
)
def test_options_that_cannot_be_say_what_can(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preference_loss(name, **options)


def test_a_mix_is_the_weighted_sum_of_its_parts() -> None:
    example = random_pairs()
    found = preference_loss({"dpo": 1.0, "simpo": 0.2, "nll": 3})(example, 0.3)
    dpo, simpo, nll = (PREFERENCE_LOSSES[name](example, 0.3) for name in ("dpo", "simpo", "nll"))
    assert torch.allclose(found, dpo + 0.2 * simpo + 3 * nll, atol=1e-12)


def test_dpo_with_nll_has_its_hand_worked_value() -> None:
    """Pang et al.: ln(1 + e^-0.3) + 0.5 * 10 / 5."""
    found = preference_loss({"dpo": 1, "sft": 0.5})(pairs(EXAMPLE), 0.1)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-0.3)) + 1, abs=1e-12)


def test_a_part_may_have_a_beta_and_options_of_its_own() -> None:
    example = random_pairs()
    found = preference_loss({"dpo": 1, "simpo": {"weight": 0.2, "beta": 2, "gamma": 0.4}})(example, 0.1)
    simpo = preference_loss("simpo", gamma=0.4)(example, 2)
    assert torch.allclose(found, PREFERENCE_LOSSES["dpo"](example, 0.1) + 0.2 * simpo, atol=1e-12)


def test_an_option_of_a_mix_goes_to_the_parts_that_have_it_and_yields_to_their_own() -> None:
    example = random_pairs()
    mix = preference_loss({"dpo": 1, "robust": 1, "aot": {"label_smoothing": 0.3}}, label_smoothing=0.2)
    parts = (
        preference_loss("dpo"),
        preference_loss("robust", label_smoothing=0.2),
        preference_loss("aot", label_smoothing=0.3),
    )
    expected = torch.stack([part(example, 0.3) for part in parts]).sum(dim=0)
    assert torch.allclose(mix(example, 0.3), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "reference", "whole_batch", "margin", "reduction"),
    [
        ({"simpo": 1, "nll": 1}, False, False, False, "mean"),
        ({"simpo": 1, "dpo": 1}, True, False, False, "sum"),
        ({"nll": 1, "aot": 1}, True, True, False, "sum"),
        ({"nll": 1, "odpo": 1}, True, False, True, "sum"),
    ],
)
def test_a_mix_needs_what_any_of_its_parts_needs(
    spec: dict[str, float], reference: bool, whole_batch: bool, margin: bool, reduction: str
) -> None:
    mix = preference_loss(spec)
    assert (mix.needs_reference, mix.needs_whole_batch, mix.needs_margin) == (reference, whole_batch, margin)
    assert mix.reduction == reduction


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ({}, {}, r"the preference loss is \{\}; give a name such as dpo, or names with weights"),
        (["dpo"], {}, r"the preference loss is \['dpo'\]"),
        ({"dop": 1}, {}, r"Did you mean 'dpo'"),
        ({"dpo": 0}, {}, r"the weight of dpo is 0; give a number x with 0 < x < inf"),
        ({"dpo": "much"}, {}, r"the weight of dpo is 'much'"),
        ({"dpo": {"beta": -1}}, {}, r"the beta of dpo is -1; give"),
        ({"simpo": {"wieght": 1}}, {}, r"'wieght'.*beta, gamma, weight.*Did you mean 'weight'"),
        ({"dpo": 1, "simpo": 1}, {"gama": 1.0}, r"option of 1 dpo \+ 1 simpo 'gama'.*Did you mean 'gamma'"),
        ({"dpo": 1, "simpo": 1}, {"gamma": -1.0}, r"gamma of simpo is -1.0"),
    ],
)
def test_a_mix_that_cannot_be_says_why(spec: Any, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preference_loss(spec, **options)


def test_odpo_asks_for_more_where_the_judge_saw_more() -> None:
    """Gaps 0, 1, 3 and h = 3 each: x = 3, 2, 0 with beta = alpha = 1."""
    example = replace(pairs(EXAMPLE, EXAMPLE, EXAMPLE), margin=torch.tensor([0.0, 1.0, 3.0]))
    expected = [math.log(1 + math.exp(-x)) for x in (3, 2, 0)]
    assert PREFERENCE_LOSSES["odpo"](example, 1.0).tolist() == pytest.approx(expected, abs=1e-12)


def test_margin_weights_multiply_each_pairs_loss() -> None:
    """A tie and a pair in the wrong order count for nothing."""
    example = replace(pairs(EXAMPLE, EXAMPLE, EXAMPLE), margin=torch.tensor([2.0, 0.0, -1.0]))
    loss = preference_loss("hinge", margin_weighted=True)
    assert loss(example, 0.1).tolist() == pytest.approx([2 * 0.7, 0, 0], abs=1e-12)
    assert loss.needs_margin
    assert loss.needs_reference


def test_margin_weights_keep_the_options_and_needs_of_the_loss() -> None:
    example = random_pairs()
    loss = preference_loss({"simpo": 1, "nll": 0.5}, margin_weighted=True, gamma=0.3)
    inner = preference_loss({"simpo": 1, "nll": 0.5}, gamma=0.3)
    assert example.margin is not None
    assert torch.allclose(loss(example, 2.0), example.margin * inner(example, 2.0), atol=1e-12)
    assert (loss.needs_reference, loss.reduction) == (False, "mean")


@pytest.mark.parametrize(
    "loss",
    [preference_loss("odpo"), preference_loss("dpo", margin_weighted=True)],
    ids=lambda loss: loss.name,
)
def test_pairs_without_scores_have_no_margin_to_use(loss: Any) -> None:
    with pytest.raises(ConfigError, match=r"needs the judge's score of both responses.*give scored pairs"):
        loss(replace(pairs(EXAMPLE), margin=None), 0.1)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired", "bco_pair"])
def test_losses_of_a_whole_batch_cannot_be_weighted_pair_by_pair(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is a loss of a whole batch.*leave the weights out"):
        preference_loss(name, margin_weighted=True)

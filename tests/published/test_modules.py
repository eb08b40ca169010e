"""DPO and SPIN as modules: a scalar mean loss out of two batches of ids."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch import DPO, SPIN
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from tests.helpers import Table
from tests.published.worlds import same_weights, tiny, weights

BOTH = pytest.mark.parametrize("kind", [DPO, SPIN])


def ids(batch: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (batch, width), generator=torch.Generator().manual_seed(seed))


def moved(module: Any, amount: float = 0.3) -> Any:
    """The policy away from its reference."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in module.policy_model.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    return module


LENGTHS = torch.tensor([1, 2, 3])


@BOTH
def test_the_loss_is_ln_2_while_policy_and_reference_are_equal(kind: Any) -> None:
    loss = kind(tiny())(ids(3, 8), ids(3, 8, 1), LENGTHS)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


@BOTH
def test_the_two_sequences_may_differ_in_width(kind: Any) -> None:
    module = moved(kind(tiny()))
    loss = module(ids(3, 6), ids(3, 11, 1), LENGTHS)
    assert torch.isfinite(loss)
    assert loss.item() != pytest.approx(math.log(2), abs=1e-4)


def _bigram() -> tuple[Table, Tensor, Tensor]:
    """Policy and reference tables over three tokens, far apart."""
    reference = torch.zeros(3, 3)
    policy = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0], [0.0, 0.0, 3.0]])
    return Table(reference), policy, reference


def test_dpo_and_spin_give_the_value_worked_out_by_hand() -> None:
    # Prompt (0,), preferred answer (1, 2), unpreferred (2,). The reference is uniform: -ln 3 a token.
    model, policy, _ = _bigram()
    dpo, spin = DPO(model, beta=0.5), SPIN(model, λ=0.5)
    with torch.no_grad():
        model.logits.copy_(policy)
    logs = policy.double().log_softmax(dim=1)
    chosen = (logs[0, 1] + logs[1, 2]).item() + 2 * math.log(3)
    rejected = logs[0, 2].item() + math.log(3)
    expected = math.log(1 + math.exp(-0.5 * (chosen - rejected)))
    preferred, unpreferred, length = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2]]), torch.tensor([1])
    assert dpo(preferred, unpreferred, length).item() == pytest.approx(expected, abs=1e-6)
    assert spin(unpreferred, preferred, length).item() == pytest.approx(expected, abs=1e-6)


def test_the_gradient_of_dpo_is_the_one_worked_out_by_hand() -> None:
    model, _, _ = _bigram()
    DPO(model, beta=0.5)(torch.tensor([[0, 1]]), torch.tensor([[0, 2]]), torch.tensor([1])).backward()
    # d loss / d (log-ratio difference) = -beta sigmoid(0) = -0.25; the softmax parts cancel.
    expected = torch.tensor([[0.0, -0.25, 0.25], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(model.logits.grad, expected, atol=1e-6)


@BOTH
def test_the_prompt_has_no_part_in_the_loss(kind: Any) -> None:
    model = Table(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))
    module = moved(kind(model))
    first, second = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[3, 4, 7, 8]])
    other_first, other_second = torch.tensor([[9, 4, 5, 6]]), torch.tensor([[9, 4, 7, 8]])
    before = module(first, second, torch.tensor([2]))
    after = module(other_first, other_second, torch.tensor([2]))
    assert before.item() == pytest.approx(after.item(), abs=1e-6)
    all_of_it = module(other_first, second, torch.tensor([0]))
    assert all_of_it.item() != pytest.approx(before.item(), abs=1e-4)


@BOTH
def test_padding_with_a_negative_pad_id_changes_nothing(kind: Any) -> None:
    module = moved(kind(tiny(), pad_id=-1))
    first, second = ids(3, 8), ids(3, 8, 1)
    padded = torch.cat((second, torch.full((3, 5), -1)), dim=1)
    expected = module(first, second, LENGTHS)
    assert module(first, padded, LENGTHS).item() == pytest.approx(expected.item(), abs=1e-5)
    assert module(padded, first, LENGTHS).item() == pytest.approx(
        module(second, first, LENGTHS).item(), abs=1e-5
    )


@BOTH
def test_padding_with_a_mask_on_either_side_changes_nothing(kind: Any) -> None:
    module = moved(kind(tiny(), pad_id=0))
    real = torch.ones(3, 8, dtype=torch.bool)
    first, second, blank = ids(3, 8), ids(3, 8, 1), torch.zeros(3, 4, dtype=torch.int64)
    expected = module(first, second, LENGTHS, real, real).item()
    right, right_mask = torch.cat((first, blank), 1), torch.cat((real, blank.bool()), 1)
    left, left_mask = torch.cat((blank, second), 1), torch.cat((blank.bool(), real), 1)
    assert module(right, left, LENGTHS, right_mask, left_mask).item() == pytest.approx(expected, abs=1e-5)


@BOTH
def test_a_pad_id_that_could_be_a_token_needs_a_mask(kind: Any) -> None:
    with pytest.raises(DataError, match=r"pad_id 0 could be a real token.*_mask"):
        kind(tiny(), pad_id=0)(ids(3, 8), ids(3, 8, 1), LENGTHS)


@BOTH
def test_negative_ids_without_a_pad_id_are_refused(kind: Any) -> None:
    padded = ids(3, 8)
    padded[:, 6:] = -1
    with pytest.raises(DataError, match="negative ids but no pad_id"):
        kind(tiny())(padded, ids(3, 8, 1), LENGTHS)


@BOTH
def test_a_prompt_as_long_as_the_row_is_refused_with_its_row(kind: Any) -> None:
    with pytest.raises(DataError, match="row 1: prompt_len 8"):
        kind(tiny())(ids(3, 8), ids(3, 12), torch.tensor([1, 8, 1]))


@BOTH
def test_the_callers_tensors_are_not_written_to(kind: Any) -> None:
    first, second = ids(3, 8), ids(3, 9, 1)
    second[:, 7:] = -1
    copies = first.clone(), second.clone(), LENGTHS.clone()
    kind(tiny(), pad_id=-1)(first, second, LENGTHS).backward()
    assert all(torch.equal(a, b) for a, b in zip(copies, (first, second, LENGTHS), strict=True))


@BOTH
def test_gradients_reach_the_policy_and_never_the_reference(kind: Any) -> None:
    module = kind(tiny())
    module(ids(3, 8), ids(3, 8, 1), LENGTHS).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.policy_model.parameters())
    assert all(p.grad is None and not p.requires_grad for p in module.ref_model.parameters())
    trained = {id(p) for p in module.parameters() if p.requires_grad}
    assert trained == {id(p) for p in module.policy_model.parameters()}


@BOTH
def test_the_reference_is_a_snapshot_of_the_model_at_construction(kind: Any) -> None:
    module, start = kind(tiny()), tiny()
    moved(module)
    assert same_weights(module.ref_model, start)
    assert not same_weights(module.policy_model, start)
    module.train()
    assert not module.ref_model.training


@BOTH
def test_update_reference_model_with_policy_takes_a_new_snapshot(kind: Any) -> None:
    module = moved(kind(tiny()))
    module.update_reference_model_with_policy()
    assert same_weights(module.ref_model, module.policy_model)
    loss = module(ids(3, 8), ids(3, 8, 1), LENGTHS)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


@BOTH
def test_update_ema_moves_the_reference_by_the_decay(kind: Any) -> None:
    module = moved(kind(tiny(), ref_model_ema_decay=0.75))
    before = weights(module.ref_model)
    module.update_ema()
    expected = 0.75 * before + 0.25 * weights(module.policy_model)
    assert torch.allclose(weights(module.ref_model), expected, atol=1e-6)


@BOTH
def test_by_default_update_ema_leaves_the_reference_where_it_is(kind: Any) -> None:
    module = moved(kind(tiny()))
    module.update_ema()
    assert same_weights(module.ref_model, tiny())


@BOTH
def test_ema_kwargs_may_give_the_decay_and_unknown_keys_list_the_known_ones(kind: Any) -> None:
    module = moved(kind(tiny(), ema_kwargs={"beta": 0.5}))
    module.update_ema()
    expected = 0.5 * weights(tiny()) + 0.5 * weights(module.policy_model)
    assert torch.allclose(weights(module.ref_model), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="'bta'; known: beta"):
        kind(tiny(), ema_kwargs={"bta": 0.5})


def test_beta_and_lambda_scale_the_log_ratios_under_every_spelling() -> None:
    spins = [SPIN(tiny(), λ=0.4), SPIN(tiny(), beta=0.4)]
    losses = [moved(module)(ids(3, 8, 1), ids(3, 8), LENGTHS).item() for module in spins]
    losses.append(moved(DPO(tiny(), beta=0.4))(ids(3, 8), ids(3, 8, 1), LENGTHS).item())
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)
    default = moved(SPIN(tiny()))(ids(3, 8, 1), ids(3, 8), LENGTHS).item()
    assert default == pytest.approx(moved(SPIN(tiny(), λ=0.1))(ids(3, 8, 1), ids(3, 8), LENGTHS).item())
    assert default != pytest.approx(losses[0], abs=1e-3)
    assert SPIN(tiny(), λ=0.4).λ == 0.4
    with pytest.raises(ConfigError, match="'gamma'"):
        SPIN(tiny(), gamma=0.4)


@BOTH
def test_training_the_module_raises_the_preferred_over_the_other(kind: Any) -> None:
    torch.manual_seed(0)
    module = kind(tiny())
    first, second = ids(4, 8), ids(4, 8, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        loss = module(first, second, torch.tensor([2, 2, 2, 2]))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    swapped = module(second, first, torch.tensor([2, 2, 2, 2]))
    assert swapped.item() > math.log(2)


@BOTH
def test_the_reference_moves_and_is_saved_with_the_module_and_stays_in_evaluation_mode(kind: Any) -> None:
    module = kind(tiny()).double().train()
    assert {p.dtype for p in module.ref_model.parameters()} == {torch.float64}
    assert not any(part.training for part in module.ref_model.modules())
    assert any(name.startswith("ref_model.") for name in module.state_dict())

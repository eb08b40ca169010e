"""Layers that are computed again in the backward pass train the same and hold less."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.data.collate import collate_pairs
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs, side_logprobs
from self_rewarding_lm_pytorch.models.policy import Policy
from tests.helpers import hugging_face, other_hugging_face, recurrent, x_transformer
from tests.training.worlds import pairs

PAIRS = pairs(6)  # rows of unequal length
IDS = torch.arange(4 * 60).reshape(4, 60) % 31

FAMILIES: dict[str, Callable[[], Policy]] = {
    **{name: partial(hugging_face, name, dtype=torch.float32) for name in ("llama", "gpt2", "gemma2")},
    **{name: partial(other_hugging_face, name) for name in ("mixtral", "opt", "mamba", "bloom")},
}


def trained(policy: Policy, *, recomputing: bool, is_forked: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The log-probs of both sides as a step of training sees them, and their gradients."""
    policy.module.train()
    batch = collate_pairs(PAIRS, fork_width=64 if is_forked else 0)
    torch.manual_seed(3)
    with policy.dropout(0.1), policy.recomputing(recomputing):
        sides = torch.cat(side_logprobs(partial(sequence_logprobs, policy), batch))
        (sides * torch.arange(1, len(sides) + 1)).sum().backward()
    named = policy.module.named_parameters()
    gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
    policy.module.zero_grad()
    return sides.detach(), gradients


@pytest.mark.parametrize("is_forked", [False, True], ids=["right-padded rows", "forked rows"])
@pytest.mark.parametrize("name", FAMILIES)
def test_log_probs_and_gradients_are_those_of_kept_activations(name: str, is_forked: bool) -> None:
    policy = FAMILIES[name]()
    if is_forked and not policy.can_fork:
        assert name in ("mamba", "bloom")
        return
    sides, gradients = trained(policy, recomputing=True, is_forked=is_forked)
    expected, of_kept = trained(policy, recomputing=False, is_forked=is_forked)
    # The same operations on the same numbers, dropout's included.
    assert torch.equal(sides, expected)
    assert gradients.keys() == of_kept.keys()
    for key, gradient in gradients.items():
        # Gradients that reach a tensor from several places may be added in another order.
        assert torch.allclose(
            gradient, of_kept[key], rtol=1e-5, atol=1e-5 * float(of_kept[key].abs().max())
        ), key


def test_dropout_acts_while_recomputing() -> None:
    """So that the test above compares more than sums without chance."""
    policy = FAMILIES["gpt2"]()
    with_dropout, _ = trained(policy, recomputing=True, is_forked=False)
    policy.module.eval()
    without = torch.cat(side_logprobs(partial(sequence_logprobs, policy), collate_pairs(PAIRS)))
    assert not torch.allclose(with_dropout, without, atol=1e-2)


def kept_bytes(policy: Policy, *, recomputing: bool) -> int:
    """What autograd holds of a forward pass until the backward pass, the weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in policy.module.parameters()}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    policy.module.train()
    with (
        policy.recomputing(recomputing),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        loss = policy.features(IDS).sum()
        size = sum(t.untyped_storage().nbytes() for place, t in held.items() if place not in weights)
        loss.backward()
    return size


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral"])
def test_less_than_half_is_held_for_the_backward_pass(name: str) -> None:
    policy = FAMILIES[name]()
    assert kept_bytes(policy, recomputing=True) < 0.5 * kept_bytes(policy, recomputing=False)


def flags(policy: Policy) -> list[tuple[bool, int]]:
    parts = policy.module.modules()
    return [(getattr(part, "gradient_checkpointing", False), len(part._forward_hooks)) for part in parts]


def test_the_former_state_comes_back_after_an_error() -> None:
    policy: Any = hugging_face("llama")
    before = flags(policy)
    with pytest.raises(RuntimeError, match="stop"), policy.recomputing(True):
        assert flags(policy) != before
        raise RuntimeError("stop")
    assert flags(policy) == before


def test_what_the_caller_has_set_up_stays_as_it_is() -> None:
    """Their own checkpointing, and hooks that they can still take away."""
    policy: Any = hugging_face("llama")
    policy.module.enable_input_require_grads()
    with policy.recomputing(True):
        pass
    policy.module.disable_input_require_grads()
    assert not any(hooks for _, hooks in flags(policy))
    policy.module.model.layers[0].gradient_checkpointing = True
    before = flags(policy)
    with policy.recomputing(True):
        assert flags(policy) == before
    assert flags(policy) == before


def test_nothing_changes_where_it_is_not_wanted() -> None:
    for policy in (hugging_face("llama"), recurrent(), x_transformer()):
        before = flags(policy)
        with policy.recomputing(False):
            assert flags(policy) == before


def unsupported() -> Policy:
    import transformers

    class Mine(transformers.LlamaForCausalLM):
        supports_gradient_checkpointing = False

    return policy_for(Mine(hugging_face("llama").module.config))


@pytest.mark.parametrize(
    ("make", "called"),
    [(recurrent, "plain"), (x_transformer, "x-transformers"), (unsupported, "Mine")],
    ids=["any module", "x-transformers", "hugging face"],
)
def test_families_that_cannot_refuse_with_their_name_and_the_remedy(
    make: Callable[[], Policy], called: str
) -> None:
    policy = make()
    said = f"gradient_checkpointing: {called} models.*leave it out, and lower micro_batch_tokens"
    with pytest.raises(ConfigError, match=said):
        policy.check_recomputing()
    with pytest.raises(ConfigError, match=said), policy.recomputing(True):
        pass
    hugging_face("llama").check_recomputing()

"""Both sides of a pair in one row have the log-probs and the gradients of rows of their own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.data.collate import collate_pairs
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs, side_logprobs, target_logprobs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Example, PairBatch, PairExample
from tests.helpers import HF_FAMILIES, X_FAMILIES, hugging_face, other_hugging_face, recurrent, x_transformer


def example(prompt: list[int], response: list[int]) -> Example:
    is_target = torch.tensor([False] * len(prompt) + [True] * len(response))
    return Example(torch.tensor(prompt + response), is_target)


def pair(index: int, prompt: list[int], chosen: list[int], rejected: list[int]) -> PairExample:
    return PairExample(index, example(prompt, chosen), example(prompt, rejected))


PAIRS = [
    pair(0, [3, 7, 1, 4, 9, 9], [5, 6, 2, 8, 11], [5, 6, 1]),  # responses that begin alike
    pair(1, [8], [1, 2], [2, 1, 3, 4, 5, 6, 7, 2]),
    pair(2, [2, 2, 2], [4], [4]),  # the same response twice
    PairExample(3, example([1, 2, 3], [4, 5]), example([1, 9], [4, 5, 6])),  # prompts that differ
    PairExample(4, example([6, 2], [4, 5]), example([9], [4])),  # nothing in common
]

FORKING: dict[str, Callable[[], Policy]] = {
    **{name: partial(hugging_face, name) for name in HF_FAMILIES},
    **{name: partial(other_hugging_face, name) for name in ("qwen3", "gemma3", "mixtral", "opt")},
    **{f"x-transformers {n}": partial(x_transformer, **X_FAMILIES[n]) for n in ("absolute", "rotary")},
    "x-transformers grouped": partial(x_transformer, rotary_pos_emb=True, attn_kv_heads=1),
    "x-transformers flash": partial(x_transformer, rotary_pos_emb=True, attn_flash=True),
}
OTHERS: dict[str, Callable[[], Policy]] = {
    "any module": recurrent,
    "mamba": partial(other_hugging_face, "mamba"),
    "bloom": partial(other_hugging_face, "bloom"),
    "relative positions": partial(x_transformer, rel_pos_bias=True),
    "shifted tokens": partial(x_transformer, shift_tokens=1),
    "a window in x-transformers": partial(x_transformer, rotary_pos_emb=True, attn_max_attend_past=4),
}


def found(policy: Policy, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs of both sides, and the gradient of their weighted sum."""
    policy.module.zero_grad()
    sides = torch.cat(side_logprobs(partial(sequence_logprobs, policy), batch))
    (sides * torch.arange(1, len(sides) + 1)).sum().backward()
    named = policy.module.named_parameters()
    return sides.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("name", FORKING)
def test_forked_rows_have_the_log_probs_and_gradients_of_separate_rows(name: str) -> None:
    """Sequences are longer than the windows of 4 that some of these models have."""
    policy = FORKING[name]()
    assert policy.can_fork
    forked, gradients = found(policy, collate_pairs(PAIRS, fork_width=64))
    apart, expected = found(policy, collate_pairs(PAIRS))
    # Even a float64 model has float32 parts: softmax, norms, rotary tables.
    assert torch.allclose(forked, apart, atol=1e-4, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        assert torch.allclose(gradient, expected[key], atol=1e-3, rtol=1e-3), key


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_read_the_sides_of_a_pair_apart(name: str) -> None:
    assert not OTHERS[name]().can_fork


def test_a_forked_row_holds_trunk_chosen_and_rejected() -> None:
    batch = collate_pairs(PAIRS[:2], fork_width=64)
    assert batch.forked is not None
    row = batch.forked
    assert row.ids.tolist() == [
        [3, 7, 1, 4, 9, 9, 5, 6, 2, 8, 11, 5, 6, 1],
        [8, 1, 2, 2, 1, 3, 4, 5, 6, 7, 2, 0, 0, 0],
    ]
    assert row.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 6, 7, 8]
    assert row.branches.tolist()[1] == [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3]
    first = row.sequences == 2  # the rejected side of the first pair
    assert row.targets[first].tolist() == [5, 6, 1]
    assert row.sources[first].tolist() == [5, 11, 12]


def test_common_tokens_are_read_once() -> None:
    batch = collate_pairs([pair(0, list(range(20)), [1, 2], [3])], fork_width=64)
    assert batch.forked is not None
    assert batch.forked.ids.shape == (1, 23)


@pytest.mark.parametrize("name", ["llama", "any module"])
def test_tokens_beyond_the_shorter_response_weigh_ld_alpha(name: str) -> None:
    """LD-DPO: the first pair's sides have 5 and 3 targets, so of chosen the last two count half."""
    policy = recurrent() if name == "any module" else hugging_face(name)
    with policy.evaluating():
        tokens, sequences = target_logprobs(policy, collate_pairs(PAIRS[:2]).chosen)
        batch = collate_pairs(PAIRS[:2], fork_width=policy.fork_width, ld_alpha=0.5)
        chosen, rejected = side_logprobs(partial(sequence_logprobs, policy), batch)
        plain, _ = side_logprobs(partial(sequence_logprobs, policy), collate_pairs(PAIRS[:2]))
    own = tokens[sequences == 0]
    assert float(chosen[0]) == pytest.approx(float(own[:3].sum() + 0.5 * own[3:].sum()), abs=1e-4)
    assert float(chosen[1]) == pytest.approx(float(plain[1]), abs=1e-4)  # the shorter side counts in full
    assert float(rejected[0]) < 0


def test_a_model_with_eager_attention_forks_too() -> None:
    policy: Any = hugging_face("llama")
    policy.module.set_attn_implementation("eager")
    assert policy.can_fork
    forked, _ = found(policy, collate_pairs(PAIRS, fork_width=64))
    apart, _ = found(policy, collate_pairs(PAIRS))
    assert torch.allclose(forked, apart, atol=1e-4)


def test_a_forked_row_that_would_not_fit_is_left_out() -> None:
    pairs = [pair(0, [1, 2, 3], [4] * 30, [5] * 32)]
    assert collate_pairs(pairs, fork_width=64).forked is None
    assert collate_pairs(pairs, fork_width=65).forked is not None
    assert hugging_face().fork_width == 64
    assert recurrent().fork_width == 0

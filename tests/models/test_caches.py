"""The fast path equals the slow path: a cache's logits are those of a full forward of each row."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.load import cache_agrees, policy_for
from self_rewarding_lm_pytorch.models.policy import Policy, RecomputingCache, right_padded
from tests.helpers import HF_FAMILIES, X_FAMILIES, hugging_face, recurrent, whole_logits, x_transformer

PROMPTS = [[3, 7, 1, 4, 4, 6, 9], [5, 2, 8], [9], [12, 13, 14, 15, 16]]

FAMILIES: dict[str, Callable[..., Policy]] = {
    **{f"x-transformers {k}": partial(x_transformer, **X_FAMILIES[k]) for k in X_FAMILIES},
    **{f"hugging face {k}": partial(hugging_face, k) for k in HF_FAMILIES},
    "plain": recurrent,
}
TYPES = [torch.float32, torch.float64]


def left_padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([len(row) for row in rows])


def expected(policy: Policy, rows: list[list[int]]) -> Tensor:
    return torch.stack([whole_logits(policy, torch.tensor([row]))[0, -1] for row in rows])


TOLERANCE = 1e-3
"""Logits span about 20. Even a float64 model has float32 parts (softmax, norms, rotary tables)."""


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_cached_logits_are_those_of_a_full_forward(name: str, dtype: torch.dtype) -> None:
    """Unequal prompts, 8 further tokens (past the sliding windows of 4), rows dropped and repeated."""
    compare(FAMILIES[name](dtype=dtype), capacity=15)


@pytest.mark.parametrize("name", ["x-transformers rotary", "hugging face llama", "plain"])
def test_a_cache_that_was_given_too_little_room_grows(name: str) -> None:
    compare(FAMILIES[name](dtype=torch.float32), capacity=9)


def compare(policy: Policy, capacity: int) -> None:
    rows = [list(row) for row in PROMPTS]
    with policy.evaluating():
        logits, cache = policy.start(*left_padded(rows), capacity=capacity)
        assert torch.allclose(logits, expected(policy, rows), atol=TOLERANCE)
        for step in range(8):
            if step == 2:
                cache.repeat(2)
                rows = [list(row) for row in rows for _ in range(2)]
            if step == 5:
                cache.keep(torch.tensor([6, 1, 2]))
                rows = [rows[6], rows[1], rows[2]]
            tokens = torch.tensor([(5 * i + 3 * step) % 31 for i in range(len(rows))])
            logits = cache.extend(tokens)
            rows = [[*row, token] for row, token in zip(rows, tokens.tolist(), strict=True)]
            assert torch.allclose(logits, expected(policy, rows), atol=TOLERANCE), f"step {step}"


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_of_equal_length_need_no_padding_and_agree_too(name: str) -> None:
    policy = FAMILIES[name]()
    rows = [[3, 1, 4], [1, 5, 9]]
    with policy.evaluating():
        _, cache = policy.start(*left_padded(rows), capacity=16)
        logits = cache.extend(torch.tensor([7, 8]))
    full = expected(policy, [[3, 1, 4, 7], [1, 5, 9, 8]])
    assert torch.allclose(logits, full, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_self_check_accepts_the_supported_families(name: str, dtype: torch.dtype) -> None:
    assert cache_agrees(FAMILIES[name](dtype=dtype))


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "plain"])
def test_the_supported_families_do_have_a_cache(name: str) -> None:
    assert FAMILIES[name]().has_cache


def test_the_self_check_notices_a_family_whose_cache_is_wrong() -> None:
    """Shifted tokens look one position back, which a cache of keys and values does not remember."""
    policy = x_transformer(dtype=torch.float32, shift_tokens=1)
    assert policy.has_cache
    assert not cache_agrees(policy)


def test_the_self_check_leaves_the_models_mode_alone() -> None:
    policy = hugging_face()
    policy.module.train()
    cache_agrees(policy)
    assert policy.module.training


def test_the_real_model_agrees_with_its_cache(stories_model: Any) -> None:
    policy = policy_for(stories_model)
    assert cache_agrees(policy)
    rows = [[1, 403, 407, 261], [1, 403]]
    with policy.evaluating():
        logits, cache = policy.start(*left_padded(rows), capacity=30)
        for step in range(20):
            tokens = logits.argmax(dim=-1)
            rows = [[*row, token] for row, token in zip(rows, tokens.tolist(), strict=True)]
            logits = cache.extend(tokens)
            # float32: one row at a time rounds differently from two
            assert torch.allclose(logits, expected(policy, rows), atol=1e-3), step


def test_the_slow_path_moves_left_padding_to_the_right() -> None:
    ids, lengths = left_padded([[5, 6, 7], [8]])
    assert right_padded(ids, lengths).tolist() == [[5, 6, 7], [8, 0, 0]]


@pytest.mark.parametrize("name", ["x-transformers absolute", "hugging face gpt2"])
def test_the_slow_path_is_right_for_models_that_have_a_cache(name: str) -> None:
    policy = FAMILIES[name]()
    rows = [list(row) for row in PROMPTS]
    with policy.evaluating():
        cache = RecomputingCache(policy, *left_padded(rows))
        assert torch.allclose(cache.next_logits(), expected(policy, rows), atol=TOLERANCE)
        cache.keep(torch.tensor([2, 0]))
        logits = cache.extend(torch.tensor([4, 5]))
    full = expected(policy, [[*rows[2], 4], [*rows[0], 5]])
    assert torch.allclose(logits, full, atol=TOLERANCE)


def test_a_cache_does_not_write_into_the_prompt_it_was_given() -> None:
    ids, lengths = left_padded(PROMPTS)
    before = ids.clone(), lengths.clone()
    for policy in (recurrent(), x_transformer(), hugging_face()):
        with policy.evaluating():
            _, cache = policy.start(ids, lengths, capacity=12)
            cache.extend(torch.tensor([1, 2, 3, 4]))
    assert torch.equal(ids, before[0])
    assert torch.equal(lengths, before[1])

"""Batches: padding by length, on the right, whoever padded before."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.data.collate import batch_from_padded, collate, collate_pairs
from self_rewarding_lm_pytorch.records import PairExample
from self_rewarding_lm_pytorch.text import example_from_parts

ROWS = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=4), st.lists(st.integers(0, 9), min_size=1, max_size=6)),
    min_size=1,
    max_size=5,
)


@given(ROWS)
def test_collated_rows_are_the_examples_and_nothing_else(rows: list[Any]) -> None:
    examples = [example_from_parts(*row) for row in rows]
    batch = collate(examples)
    assert batch.ids.shape == (len(rows), max(map(len, examples)))
    for i, example in enumerate(examples):
        length = int(batch.lengths[i])
        assert length == len(example)
        assert torch.equal(batch.ids[i, :length], example.ids)
        assert torch.equal(batch.is_target[i, :length], example.is_target)
        assert not batch.is_target[i, length:].any()
        assert not batch.ids[i, length:].any()
    assert batch.num_targets == sum(example.num_targets for example in examples)


@pytest.mark.parametrize("side", ["left", "right"])
@given(ROWS, st.integers(0, 9))
def test_padding_on_either_side_with_any_id_becomes_the_same_batch(
    side: str, rows: list[Any], fill: int
) -> None:
    examples = [example_from_parts(*row) for row in rows]
    expected = collate(examples)
    width = expected.ids.shape[1] + 2  # wider than needed
    ids = torch.full((len(rows), width), fill)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    is_target = torch.zeros_like(mask)
    for i, example in enumerate(examples):
        start = width - len(example) if side == "left" else 0
        ids[i, start : start + len(example)] = example.ids
        mask[i, start : start + len(example)] = True
        is_target[i, start : start + len(example)] = example.is_target
    found = batch_from_padded(ids, mask, is_target)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.is_target, expected.is_target)
    assert torch.equal(found.lengths, expected.lengths)


def test_the_first_real_token_is_never_a_target_and_padding_is_none() -> None:
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 9]])
    mask = torch.tensor([[False, False, True, True], [True, True, True, True]])
    found = batch_from_padded(ids, mask, torch.ones_like(mask))
    assert found.ids.tolist() == [[5, 6, 0, 0], [7, 8, 9, 9]]
    assert found.is_target.tolist() == [[False, True, False, False], [False, True, True, True]]


def test_the_given_tensors_are_not_written_to() -> None:
    ids = torch.tensor([[3, 5, 6]])
    mask = torch.tensor([[False, True, True]])
    is_target = torch.tensor([[True, True, True]])
    batch_from_padded(ids, mask, is_target)
    assert ids.tolist() == [[3, 5, 6]]
    assert is_target.tolist() == [[True, True, True]]


def test_chosen_and_rejected_may_differ_in_width() -> None:
    pair = PairExample(4, example_from_parts((1,), (2,)), example_from_parts((1,), (3, 4, 5)))
    batch = collate_pairs([pair])
    assert batch.chosen.ids.tolist() == [[1, 2]]
    assert batch.rejected.ids.tolist() == [[1, 3, 4, 5]]
    assert batch.index.tolist() == [4]

"""Examples: ids and target masks, made together; and codecs from functions."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.text import (
    FunctionCodec,
    example_from_item,
    example_from_parts,
    example_from_text,
    shortened,
    unpadded_length,
)
from tests.helpers import byte_codec

IDS = st.lists(st.integers(0, 99), min_size=2, max_size=12)


def test_text_becomes_prompt_response_and_end_with_loss_on_the_last_two() -> None:
    example = example_from_text(byte_codec(eos_id=0), "ab", "cd")
    assert example.ids.tolist() == [97, 98, 99, 100, 0]
    assert example.is_target.tolist() == [False, False, True, True, True]
    assert example.num_targets == 3
    assert len(example) == 5


def test_without_an_end_id_none_is_written() -> None:
    example = example_from_text(byte_codec(eos_id=None), "ab", "cd")
    assert example.ids.tolist() == [97, 98, 99, 100]


def test_an_end_within_the_response_carries_loss_too() -> None:
    """The end-of-sequence id may equal any id, also the padding's; masks do not look at ids."""
    assert example_from_parts((0, 5), (0, 0, 7, 0)).is_target.tolist() == [False] * 2 + [True] * 4


@given(st.lists(st.integers(0, 99), max_size=8), st.lists(st.integers(0, 99), min_size=1, max_size=8))
def test_targets_are_the_response_but_never_position_zero(prompt: list[int], response: list[int]) -> None:
    example = example_from_parts(prompt, response)
    assert example.ids.tolist() == prompt + response
    expected = [i >= len(prompt) and i > 0 for i in range(len(prompt + response))]
    assert example.is_target.tolist() == expected
    assert example.ids.dtype == torch.int64
    assert example.is_target.dtype == torch.bool


@given(IDS, st.integers(0, 11), st.integers(0, 5))
def test_prompt_length_and_prompt_mask_and_padding_say_the_same(
    ids: list[int], num_prompt: int, num_pad: int
) -> None:
    num_prompt = min(num_prompt, len(ids) - 1)
    padded = torch.tensor(ids + [-1] * num_pad)
    mask = torch.arange(len(padded)) < num_prompt
    by_length = example_from_item(padded, torch.tensor(num_prompt))
    by_mask = example_from_item(padded, mask)
    by_parts = example_from_parts(ids[:num_prompt], ids[num_prompt:])
    for example in (by_length, by_mask):
        assert torch.equal(example.ids, by_parts.ids)
        assert torch.equal(example.is_target, by_parts.is_target)


@pytest.mark.parametrize(("num_prompt", "num_targets"), [(0, 3), (1, 3), (2, 2), (3, 1)])
def test_prompts_of_length_0_and_1_train_on_everything_that_can_be_predicted(
    num_prompt: int, num_targets: int
) -> None:
    example = example_from_item(torch.tensor([5, 6, 7, 8]), num_prompt)
    assert example.num_targets == num_targets
    assert not example.is_target[0]


def test_a_mask_may_have_holes() -> None:
    """A conversation of several turns: trained on what is not prompt."""
    mask = torch.tensor([True, False, True, True, False, False])
    example = example_from_item(torch.tensor([1, 2, 3, 4, 5, -1]), mask)
    assert example.ids.tolist() == [1, 2, 3, 4, 5]
    assert example.is_target.tolist() == [False, True, False, False, True]


def test_padding_is_cut_and_the_callers_tensor_stays_as_it_was() -> None:
    ids = torch.tensor([3, 0, 4, -1, -1])
    before = ids.clone()
    example = example_from_item(ids, 1)
    example.ids[0] = 77
    assert torch.equal(ids, before)
    assert example_from_item(ids, 1).ids.tolist() == [3, 0, 4]


@pytest.mark.parametrize("pad", [-1, -100])
def test_any_negative_id_is_padding_and_id_0_is_not(pad: int) -> None:
    assert unpadded_length(torch.tensor([0, 0, 5, 0, pad, pad])) == 4
    assert unpadded_length(torch.tensor([pad])) == 0


def test_negative_ids_before_real_ones_are_refused_with_value_and_place() -> None:
    with pytest.raises(DataError, match=r"id -7 at position 2"):
        example_from_item(torch.tensor([4, 5, -7, 6]), 1)


@pytest.mark.parametrize("num_prompt", [4, 5, 100])
def test_a_prompt_that_leaves_nothing_is_refused_with_the_length(num_prompt: int) -> None:
    with pytest.raises(DataError, match=r"item 3.*4 tokens, all of them prompt"):
        example_from_item(torch.tensor([1, 2, 3, 4]), num_prompt, what="item 3")


@pytest.mark.parametrize("ids", [[], [-1, -1], [5]])
def test_rows_too_short_to_predict_anything_are_refused(ids: list[int]) -> None:
    with pytest.raises(DataError, match="nothing is left"):
        example_from_item(torch.tensor(ids, dtype=torch.int64), 0)


def test_a_negative_prompt_length_is_refused() -> None:
    with pytest.raises(DataError, match="-3"):
        example_from_item(torch.tensor([1, 2, 3, 4]), -3)


def test_a_mask_of_another_length_is_refused_with_both_shapes() -> None:
    with pytest.raises(DataError, match=r"\(3,\).*\(4,\)"):
        example_from_item(torch.tensor([1, 2, 3, 4]), torch.tensor([True, True, False]))


def test_several_rows_at_once_are_refused_with_the_shape() -> None:
    with pytest.raises(DataError, match=r"\(2, 3\)"):
        example_from_item(torch.zeros(2, 3, dtype=torch.int64), 1)


def test_an_id_outside_the_vocabulary_is_named_with_the_limit() -> None:
    with pytest.raises(DataError, match=r"item 9 contain 32, .*0 to 31"):
        example_from_item(torch.tensor([1, 31, 32]), 1, vocab_size=32, what="item 9")
    assert len(example_from_item(torch.tensor([1, 31, 0]), 1, vocab_size=32)) == 3


@pytest.mark.parametrize(
    "encoded",
    [
        [97, 98],
        torch.tensor([97, 98]),
        torch.tensor([97.0, 98.0]),
        torch.tensor([97, 98], dtype=torch.int32),
        torch.tensor([97.0, 98.0], requires_grad=True),
    ],
    ids=["list", "int64", "float", "int32", "with gradient"],
)
def test_an_encode_function_may_give_lists_and_tensors_of_any_type(encoded: Any) -> None:
    assert FunctionCodec(lambda text: encoded, str).continuation_ids("ab") == (97, 98)


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (torch.tensor([1.0, 2.5]), r"'hello'.*2\.5"),
        (torch.tensor([[1, 2]]), r"\(1, 2\)"),
        ([5, 300], r"300.*0 to 255"),
        ([5, -1], r"-1"),
    ],
    ids=["not whole", "two rows", "too large", "negative"],
)
def test_an_encode_function_that_gives_no_ids_is_refused_with_the_value(encoded: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        FunctionCodec(lambda text: encoded, str, vocab_size=256).prompt_ids("hello")


def test_a_decode_function_gets_one_row_of_int64_on_the_cpu_without_the_end() -> None:
    seen: list[torch.Tensor] = []

    def decode(ids: torch.Tensor) -> str:
        seen.append(ids)
        return "text"

    codec = FunctionCodec(lambda text: [1], decode, eos_id=0)
    assert codec.decode((5, 6, 0)) == "text"
    assert seen[0].tolist() == [5, 6]
    assert (seen[0].dtype, seen[0].ndim, seen[0].device.type) == (torch.int64, 1, "cpu")
    assert codec.decode((0,)) == ""
    assert codec.decode(()) == ""


@given(st.text(max_size=20))
def test_text_comes_back_from_its_ids(text: str) -> None:
    codec = byte_codec(eos_id=None)
    assert codec.decode(codec.prompt_ids(text)) == text


def test_empty_text_needs_no_encode_function() -> None:
    def fails(text: str) -> list[int]:
        raise AssertionError("some tokenizers cannot encode nothing")

    codec = FunctionCodec(fails, str, eos_id=3)
    assert codec.prompt_ids("") == ()
    assert codec.response_ids("p", "") == (3,)


def test_long_text_is_shortened_for_messages() -> None:
    assert shortened("a" * 60) == "a" * 60
    assert shortened("a" * 61) == "a" * 57 + "..."

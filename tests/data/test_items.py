"""Rows to examples: what is trained on is the response, whatever form the item has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.data.items import (
    given_pairs,
    preference_examples,
    supervised_examples,
)
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.records import Example, PreferencePair
from tests.helpers import Recurrent, byte_codec, x_transformer

PLAIN = policy_for(Recurrent(vocab=256))
SIZED = x_transformer()  # knows its vocabulary, 32, and its context, 64
CODEC = byte_codec()


def shown(example: Example) -> tuple[list[int], list[bool]]:
    return example.ids.tolist(), example.is_target.tolist()


def test_text_and_ids_of_one_item_give_one_example() -> None:
    ids = torch.tensor([*b"why?", *b"so", 0])
    mask = torch.arange(7) < 4
    rows = [
        {"prompt": "why?", "response": "so"},
        (ids, 4),
        (ids, torch.tensor(4)),
        (ids, mask),
        [ids.tolist(), 4],
    ]
    found = [shown(example) for example in supervised_examples(rows, PLAIN, CODEC)]
    expected = ([*b"why?so", 0], [False] * 4 + [True] * 3)
    assert found == [expected] * 5, "the end-of-sequence token carries loss"


def test_padding_is_cut_off_and_an_example_passes_through() -> None:
    (example,) = supervised_examples([(torch.tensor([5, 6, 7, -1, -1]), 1)], PLAIN, None)
    assert shown(example) == ([5, 6, 7], [False, True, True])
    assert supervised_examples([example], PLAIN, None) == [example]


def test_the_first_token_is_never_trained_on() -> None:
    (example,) = supervised_examples([(torch.tensor([5, 6]), 0)], PLAIN, None)
    assert shown(example) == ([5, 6], [False, True])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((torch.arange(1, 4), 3), "item 1: nothing is left to train on"),
        ((torch.tensor([5]), 0), "item 1: nothing is left to train on"),
        ((torch.tensor([5, 32]), 1), r"item 1 contain 32, outside the vocabulary \(the model knows 0 to 31"),
        ((torch.tensor([5, -1, 6]), 1), "id -1 at position 1 is negative but real ids follow"),
        ((torch.tensor([[5, 6]]), 1), "must be one row"),
        ((torch.tensor([5, 6]), torch.tensor([True])), "they must be equal"),
        ((torch.tensor([5, 6]),), "item 1 is tuple; expected"),
        (5, "item 1 is int; expected"),
        ({"prompt": "a"}, "item 1 has the columns"),
    ],
)
def test_a_wrong_item_is_named_with_its_number(item: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        supervised_examples([(torch.arange(1, 5), 2), item], SIZED, CODEC)


def test_an_item_longer_than_the_context_is_refused_not_cut() -> None:
    policy = SIZED
    fits, too_long = (torch.ones(64, dtype=torch.long), 2), (torch.ones(65, dtype=torch.long), 2)
    assert len(supervised_examples([fits], policy, None)[0]) == 64
    with pytest.raises(DataError, match="item 1 has 65 tokens, but the model's context is 64"):
        supervised_examples([fits, too_long], policy, None)
    with pytest.raises(DataError, match="item 0 has 65 tokens"):
        given_pairs([(fits[0], too_long[0], 2)], policy, None)


def test_text_without_a_tokenizer_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(DataError, match="there is no tokenizer; give tokenizer_encode"):
        supervised_examples([{"prompt": "a", "response": "b"}], PLAIN, None)


def test_given_pairs_share_their_prompt_and_keep_their_sides() -> None:
    chosen, rejected = torch.tensor([5, 6, 7, 0]), torch.tensor([5, 6, 9, -1])
    rows = [{"prompt": "why?", "chosen": "so", "rejected": "no"}, (chosen, rejected, 2)]
    text, ids = given_pairs(rows, PLAIN, CODEC)
    assert (text.index, ids.index) == (0, 1)
    assert shown(text.chosen) == ([*b"why?so", 0], [False] * 4 + [True] * 3)
    assert shown(text.rejected) == ([*b"why?no", 0], [False] * 4 + [True] * 3)
    assert shown(ids.chosen) == ([5, 6, 7, 0], [False, False, True, True])
    assert shown(ids.rejected) == ([5, 6, 9], [False, False, True])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((torch.arange(1, 5), torch.arange(1, 4), 3), "pair 0, unpreferred: nothing is left"),
        ((torch.arange(1, 5), torch.arange(1, 4)), "pair 0 is tuple; expected"),
        ((torch.tensor([5, 999]), torch.tensor([5, 6]), 1), "pair 0, preferred contain 999"),
        ({"prompt": "a", "chosen": "b"}, "item 0 has the columns"),
    ],
)
def test_a_wrong_pair_is_named_with_its_side(row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        given_pairs([row], SIZED, CODEC)


def test_stored_pairs_train_on_the_ids_that_were_sampled() -> None:
    pair = PreferencePair(4, 0, "p", "c", "r", (1, 2), (3, 0), (), chosen_score=4.0, rejected_score=1.5)
    (example,) = preference_examples([pair])
    assert example.index == 0
    assert shown(example.chosen) == ([1, 2, 3, 0], [False, False, True, True])
    assert shown(example.rejected) == ([1, 2], [False, False])
    assert example.margin == 2.5


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (supervised_examples, {"prompt": "q", "response": "a"}, {"prompt": "q", "response": ""}),
        (given_pairs, {"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a"}),
    ],
)
def test_an_item_that_is_wrong_is_named_with_its_file(read: Any, good: Any, bad: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text(f"{json.dumps(good)}\n" * 3)
    second.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(DataError, match=r"second\.jsonl, its item 1: (item|pair) 4 "):
        read([first, {"file": str(second)}], PLAIN, CODEC)
    with pytest.raises(DataError, match=r"^.*second\.jsonl: (item|pair) 1 "):
        read(str(second), PLAIN, CODEC)
    with pytest.raises(DataError, match=r"^(item|pair) 1 "):
        read([good, bad], PLAIN, CODEC)

"""Target log-probs against a float64 reference that loops over positions and shifts nothing."""

import math
from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.data.collate import batch_from_padded, collate
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs, target_logprobs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import SequenceBatch
from self_rewarding_lm_pytorch.text import example_from_item
from tests.helpers import (
    VOCAB,
    Successor,
    Table,
    hugging_face,
    recurrent,
    whole_logits,
    x_transformer,
)

ROWS = [[3, 7, 1, 4, 4, 2], [5, 2], [9, 9, 8, 2, 2, 6, 1, 2], [11]]  # 2: end of sequence, also within
PROMPTS = [1, 0, 4, 0]

POLICIES: dict[str, Callable[[], Policy]] = {
    "x-transformers": lambda: x_transformer(rotary_pos_emb=True),
    "hugging face": lambda: hugging_face("llama"),
    "soft-capped logits": lambda: hugging_face("gemma2"),
    "plain module": recurrent,
}

# Hugging Face's RMSNorm and rotary tables compute in float32 whatever the model's type.
TOLERANCE = {"hugging face": 1e-4, "soft-capped logits": 1e-4}


def reference(policy: Policy, row: list[int], num_prompt: int) -> list[float]:
    """log p(row[t] | row[:t]) for each response position, each from a forward pass of its own."""
    found = []
    for place in range(max(num_prompt, 1), len(row)):
        with torch.no_grad():
            logits = whole_logits(policy, torch.tensor([row[:place]]))[0, -1]
        scores = logits.double().numpy()
        shifted = np.exp(scores - scores.max())
        found.append(float(np.log(shifted[row[place]] / shifted.sum())))
    return found


def padded(side: str, fill: int) -> SequenceBatch:
    """The rows as somebody else pads them: on either side, with any id."""
    width = max(map(len, ROWS))
    ids = torch.full((len(ROWS), width), fill)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    is_target = torch.zeros_like(mask)
    for i, (row, num_prompt) in enumerate(zip(ROWS, PROMPTS, strict=True)):
        start = width - len(row) if side == "left" else 0
        ids[i, start : start + len(row)] = torch.tensor(row)
        mask[i, start : start + len(row)] = True
        is_target[i, start + num_prompt : start + len(row)] = True
    return batch_from_padded(ids, mask, is_target)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("fill", [0, 2], ids=["pad 0", "pad is end-of-sequence"])
@pytest.mark.parametrize("name", POLICIES)
def test_target_logprobs_are_those_of_a_loop_over_positions(name: str, side: str, fill: int) -> None:
    policy = POLICIES[name]()
    with policy.evaluating():
        logprobs, rows = target_logprobs(policy, padded(side, fill))
    expected = [reference(policy, row, n) for row, n in zip(ROWS, PROMPTS, strict=True)]
    assert rows.tolist() == [i for i, found in enumerate(expected) for _ in found]
    assert logprobs.tolist() == pytest.approx(list(chain(*expected)), abs=TOLERANCE.get(name, 1e-9))


@pytest.mark.parametrize("name", POLICIES)
def test_a_rows_logprob_is_the_sum_over_its_targets(name: str) -> None:
    """Rows 1 (prompt of length 0, one predictable token) and 3 (nothing to predict) included."""
    policy = POLICIES[name]()
    with policy.evaluating():
        sums = sequence_logprobs(policy, padded("right", 0))
    expected = [sum(reference(policy, row, n)) for row, n in zip(ROWS, PROMPTS, strict=True)]
    assert sums.tolist() == pytest.approx(expected, abs=5 * TOLERANCE.get(name, 1e-9))
    assert sums[3] == 0


def test_a_real_pretrained_model_gives_the_same_as_the_loop(
    stories_model: Any, stories_tokenizer: Any
) -> None:
    policy = policy_for(stories_model, tokenizer=stories_tokenizer)
    texts = ["Once upon a time, there was a little girl named Lily.", "One day, a cat"]
    rows = [stories_tokenizer(text)["input_ids"] for text in texts]
    batch = collate([example_from_item(torch.tensor(row), 3) for row in rows])
    with policy.evaluating():
        logprobs, _ = target_logprobs(policy, batch)
    expected = list(chain(*(reference(policy, row, 3) for row in rows)))
    # float32 model: a batch and a single row round differently
    assert logprobs.tolist() == pytest.approx(expected, abs=2e-3)
    assert max(expected) > -0.05, "a model that knows stories is sure of some token of this one"


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
@pytest.mark.parametrize("name", POLICIES)
def test_chunked_equals_whole_in_loss_and_gradient(name: str, chunk_size: int) -> None:
    def loss_and_gradients(size: int) -> tuple[float, list[Tensor]]:
        policy = POLICIES[name]()
        loss = -sequence_logprobs(policy, padded("right", 0), chunk_size=size).sum()
        loss.backward()
        return loss.item(), [p.grad for p in policy.module.parameters() if p.grad is not None]

    whole, gradients = loss_and_gradients(1_000_000)
    chunked, chunked_gradients = loss_and_gradients(chunk_size)
    tolerance = 1e-4 if name in TOLERANCE else 1e-10  # see TOLERANCE; otherwise only the order of sums
    assert chunked == pytest.approx(whole, abs=tolerance)
    assert len(gradients) == len(chunked_gradients) > 0
    for one, other in zip(gradients, chunked_gradients, strict=True):
        assert torch.allclose(one, other, atol=tolerance)


@pytest.mark.parametrize("name", POLICIES)
def test_gradients_are_those_of_the_full_logits(name: str) -> None:
    """The reference: -log p of each target from the module's own (B, T, V) logits, float64."""
    policy, twin = POLICIES[name](), POLICIES[name]()
    batch = padded("right", 0)
    (-sequence_logprobs(policy, batch).sum()).backward()
    logits = whole_logits(twin, batch.ids).double()
    loss = torch.zeros((), dtype=torch.float64)
    for row, (length, num_prompt) in enumerate(zip(map(len, ROWS), PROMPTS, strict=True)):
        for place in range(max(num_prompt, 1), length):
            before = logits[row, place - 1]
            loss = loss + before.logsumexp(0) - before[batch.ids[row, place]]
    loss.backward()
    for one, other in zip(policy.module.parameters(), twin.module.parameters(), strict=True):
        if other.grad is not None:
            assert one.grad is not None
            assert torch.allclose(one.grad, other.grad, atol=1e-4 if name in TOLERANCE else 1e-10)


def test_what_stands_in_the_padding_changes_nothing() -> None:
    policy = x_transformer()
    batch = padded("right", 0)
    behind = torch.arange(batch.ids.shape[1]) >= batch.lengths[:, None]
    other = SequenceBatch(batch.ids.masked_fill(behind, 31), batch.is_target, batch.lengths)
    with policy.evaluating():
        assert torch.equal(sequence_logprobs(policy, batch), sequence_logprobs(policy, other))


def test_a_model_that_predicts_perfectly_has_logprob_zero() -> None:
    """Logits are 50 on t + 1: log p = -log(1 + 31 e^-50) = 0 to 20 digits for each of 5 targets.

    Reading the logits AT the token (the published library) gives -50 for each.
    """
    policy = policy_for(Successor().double())
    batch = collate([example_from_item(torch.arange(3, 9), 1)])
    assert sequence_logprobs(policy, batch).item() == pytest.approx(0, abs=1e-12)


def test_a_bigram_table_gives_the_logprobs_one_reads_off_it() -> None:
    """p(1|0) = 3/4, p(2|1) = 1/2, p(0|2) = 1/5: the row 0 1 2 0 with prompt 0 has log(3/40)."""
    table = torch.tensor([[1, 6, 1], [1, 1, 2], [1, 2, 2]]).double().log()
    policy = policy_for(Table(table))
    batch = collate([example_from_item(torch.tensor([0, 1, 2, 0]), 1)])
    assert sequence_logprobs(policy, batch).item() == pytest.approx(math.log(3 / 40), abs=1e-12)


def test_a_uniform_model_pays_log_vocabulary_for_each_token() -> None:
    policy = policy_for(Table(torch.zeros(VOCAB, VOCAB)))
    batch = collate([example_from_item(torch.tensor([4, 5, 6, 7]), 2)])
    assert sequence_logprobs(policy, batch).item() == pytest.approx(-2 * math.log(VOCAB), rel=1e-6)


def test_half_precision_logits_are_normalised_in_float32() -> None:
    """32 equal bfloat16 logits: log-softmax in bfloat16 would give -3.46875, float32 -3.465736."""
    policy = policy_for(Table(torch.zeros(VOCAB, VOCAB)).to(torch.bfloat16))
    batch = collate([example_from_item(torch.tensor([4, 5]), 1)])
    found = sequence_logprobs(policy, batch)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-math.log(32), abs=1e-6)


def test_a_target_at_position_zero_is_refused() -> None:
    ids = torch.tensor([[1, 2]])
    batch = SequenceBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([2]))
    with pytest.raises(ValueError, match="position 0"):
        target_logprobs(recurrent(), batch)


def test_later_tokens_do_not_change_earlier_logprobs() -> None:
    policy = x_transformer()
    with policy.evaluating():
        found = [
            target_logprobs(policy, collate([example_from_item(torch.tensor(ROWS[2][:end]), 1)]))[0]
            for end in range(2, 9)
        ]
    for shorter, longer in pairwise(found):
        assert torch.allclose(shorter, longer[:-1], atol=1e-9)  # kernels differ by length

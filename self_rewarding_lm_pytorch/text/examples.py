"""Training examples: token ids and which of them are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Conversation, Example
from self_rewarding_lm_pytorch.text.ids import checked_ids, unpadded_length

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.text.codec import Codec


def example_from_text(codec: Codec, prompt: str | Conversation, response: str) -> Example:
    """A prompt and the response to train on."""
    return example_from_parts(codec.prompt_ids(prompt), codec.response_ids(prompt, response))


def example_from_parts(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Example:
    """Prompt tokens and response tokens: the response is the target."""
    ids = torch.tensor([*prompt_ids, *response_ids], dtype=torch.int64)
    return _example(ids, torch.arange(len(ids)) >= len(prompt_ids))


def example_from_item(
    ids: Tensor, prompt: Tensor | int, *, vocab_size: int | None = None, what: str = "item"
) -> Example:
    """A data item of the published interface.

    ids: 1-D; trailing negative ids are padding and are cut off. The tensor is not written to.
    prompt: the prompt's length (integer), or a bool mask of ids' length, True on the prompt.
    Raises DataError for a prompt that leaves nothing to train on, or ids outside the vocabulary.
    """
    ids = torch.as_tensor(ids).detach().cpu()
    prompt = torch.as_tensor(prompt).detach().cpu()
    if ids.ndim != 1:
        raise DataError(f"{what}: ids must be one row (length,), not {tuple(ids.shape)}")
    length = unpadded_length(ids)
    if prompt.ndim > 0 and prompt.shape != ids.shape:
        raise DataError(
            f"{what}: the prompt mask has shape {tuple(prompt.shape)}, the ids {tuple(ids.shape)}; "
            "they must be equal (or give the prompt's length as an integer)"
        )
    kept = torch.tensor(checked_ids(ids[:length], what, vocab_size), dtype=torch.int64)
    if prompt.ndim == 0 and int(prompt) < 0:
        raise DataError(f"{what}: the prompt length is {int(prompt)}; it counts tokens, so 0 or more")
    by_length = torch.arange(length) >= int(prompt) if prompt.ndim == 0 else None
    is_target = ~prompt[:length].bool() if by_length is None else by_length
    example = _example(kept, is_target)
    if example.num_targets == 0:
        raise DataError(
            f"{what}: nothing is left to train on: {length} tokens, all of them prompt "
            "(position 0 never carries loss). Check the prompt length."
        )
    return example


def _example(ids: Tensor, is_target: Tensor) -> Example:
    is_target = is_target.clone()
    is_target[:1] = False  # nothing predicts the first token
    return Example(ids, is_target)

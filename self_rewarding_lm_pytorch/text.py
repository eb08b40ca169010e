"""Text to tokens and back. Token ids and the target mask are born here, together.

A codec is whatever turns text into ids; it knows nothing of models. One codec renders the prompt for
training, sampling and judging alike, so that what is trained is what is later generated.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Example


class Codec(Protocol):
    """What the rest may ask of a tokenizer."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a response; the first is the one written in training data. May be empty."""
        ...

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """The prompt as the policy reads it, up to where its response begins."""
        ...

    def response_ids(self, prompt: str, response: str) -> tuple[int, ...]:
        """The response as a continuation of the prompt, ended by an end-of-sequence token if known."""
        ...

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        """Plain text put after other text: no template, no special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens left out."""
        ...


class FunctionCodec:
    """A codec from an `encode`/`decode` pair of functions, as the published interface takes.

    encode: str -> 1-D tensor or list of ids (a float tensor is cast, as long as its values are whole).
    decode: gets a 1-D int64 tensor on the CPU, returns str.
    vocab_size: ids at or over it are an error, so that they cannot crash the embedding later.
    """

    def __init__(
        self,
        encode: Callable[[str], Any],
        decode: Callable[[Tensor], str],
        *,
        eos_id: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._vocab_size = vocab_size
        self.eos_ids: tuple[int, ...] = () if eos_id is None else (eos_id,)

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        return self.continuation_ids(prompt)

    def response_ids(self, prompt: str, response: str) -> tuple[int, ...]:
        return self.continuation_ids(response) + self.eos_ids[:1]

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        ids = torch.as_tensor(self._encode(text)).detach().cpu()
        return tuple(checked_ids(ids, f"the tokenizer's ids of {shortened(text)!r}", self._vocab_size))

    def decode(self, ids: Sequence[int]) -> str:
        kept = [token for token in ids if token not in self.eos_ids]
        return str(self._decode(torch.tensor(kept, dtype=torch.int64))) if kept else ""


class HuggingFaceCodec:
    """A codec from a Hugging Face tokenizer, with its chat template where it has one.

    The tokenizer is used as an object; this module does not import transformers.
    extra_eos_ids: further ending tokens, for example from the model's generation config.
    What people or models wrote never becomes a special token, even if it spells one.
    """

    def __init__(self, tokenizer: Any, *, extra_eos_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.has_chat_template = bool(getattr(tokenizer, "chat_template", None))
        own = [self._turn_end_id if self.has_chat_template else None, tokenizer.eos_token_id]
        ends = [token for token in (*own, *extra_eos_ids) if token is not None]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        if self.has_chat_template:
            return self._chat_ids(prompt)
        ids = tuple(self.tokenizer(prompt, split_special_tokens=True)["input_ids"])
        while ids and ids[-1] in self.eos_ids and ids[-1] != self.tokenizer.bos_token_id:
            ids = ids[:-1]  # some tokenizers end every text; a prompt is not at its end
        return ids

    def response_ids(self, prompt: str, response: str) -> tuple[int, ...]:
        # A response is tokenized where it stands, because a word's tokens depend on what precedes it.
        before = self._template_tail if self.has_chat_template else prompt
        head, whole = self.continuation_ids(before), self.continuation_ids(before + response)
        fits = whole[: len(head)] == head
        ids = whole[len(head) :] if fits else self.continuation_ids(response)
        return ids + self.eos_ids[:1]

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        # Behind an anchor, because tokenizers drop the blank that begins a text.
        anchored = self.tokenizer.decode([*self._anchor, *ids], skip_special_tokens=True)
        before = self.tokenizer.decode(list(self._anchor), skip_special_tokens=True)
        return str(anchored[len(before) :])

    @cached_property
    def _anchor(self) -> tuple[int, ...]:
        return self.continuation_ids("a")

    def _chat_ids(self, prompt: str) -> tuple[int, ...]:
        rendered = self._rendered(prompt)
        if not any(special in prompt for special in self._specials):
            return self._template_ids(rendered)
        # The prompt spells a special token: template and prompt are tokenized apart.
        before, _, after = self._rendered(_MARK).partition(_MARK)
        return self._template_ids(before) + self.continuation_ids(prompt) + self._template_ids(after)

    def _template_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _rendered(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    @cached_property
    def _template_tail(self) -> str:
        """What the template writes last before a response, special tokens left out."""
        tail = self._rendered(_MARK).rpartition(_MARK)[2]
        for special in self._specials:
            tail = tail.rpartition(special)[2]
        return tail

    @cached_property
    def _specials(self) -> list[str]:
        """Texts that the tokenizer turns into one special token."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        return [str(token) for token in added] or list(self.tokenizer.all_special_tokens)

    @cached_property
    def _turn_end_id(self) -> int | None:
        """The special token that the template writes after an assistant's turn, if any."""
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
        rendered = self.tokenizer.apply_chat_template(messages, tokenize=False)
        tail = self._template_ids(rendered.rpartition(_MARK)[2])
        special = set(self.tokenizer.all_special_ids) | set(
            getattr(self.tokenizer, "added_tokens_decoder", {})
        )
        return next((token for token in tail if token in special), None)


_MARK = "contentmark"  # stands for a message's content when a template is looked at


def example_from_text(codec: Codec, prompt: str, response: str) -> Example:
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


def unpadded_length(ids: Tensor) -> int:
    """Where the right padding (negative ids) of a 1-D row begins; negative ids inside are an error."""
    length = int((ids >= 0).sum())
    if bool((ids[:length] < 0).any()):
        place = int((ids < 0).nonzero()[0])
        raise DataError(
            f"id {int(ids[place])} at position {place} is negative but real ids follow it; "
            "a negative id may only mark padding on the right"
        )
    return length


def checked_ids(ids: Tensor, what: str, vocab_size: int | None) -> list[int]:
    """Ids as Python integers, or a DataError that names the one which cannot be."""
    if ids.ndim != 1:
        raise DataError(f"{what} must be one row of ids, not shape {tuple(ids.shape)}")
    whole = ids.to(torch.int64)
    if ids.is_floating_point() and not bool((whole == ids).all()):
        raise DataError(f"{what} are not whole numbers: {ids[whole != ids][0].item()}")
    top = vocab_size if vocab_size is not None else None
    outside = (whole < 0) if top is None else ((whole < 0) | (whole >= top))
    if bool(outside.any()):
        limit = "" if top is None else f" (the model knows 0 to {top - 1})"
        raise DataError(f"{what} contain {int(whole[outside][0])}, outside the vocabulary{limit}")
    return [int(token) for token in whole]


def shortened(text: str, limit: int = 60) -> str:
    """Text for a message: its beginning."""
    return text if len(text) <= limit else text[: limit - 3] + "..."

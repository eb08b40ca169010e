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
from self_rewarding_lm_pytorch.text.examples import (
    example_from_item,
    example_from_parts,
    example_from_text,
)
from self_rewarding_lm_pytorch.text.ids import checked_ids, known_ids, shortened, unpadded_length

__all__ = [
    "Codec",
    "FunctionCodec",
    "HuggingFaceCodec",
    "checked_ids",
    "example_from_item",
    "example_from_parts",
    "example_from_text",
    "known_ids",
    "shortened",
    "unpadded_length",
]


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
    A function that fails, or gives something else, is a DataError with what it was given.
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
        return self.continuation_ids(response) + known_ids(self.eos_ids[:1], "", self._vocab_size)

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        try:
            ids = torch.as_tensor(self._encode(text)).detach().cpu()
        except Exception as error:  # anybody's function
            raise DataError(
                f"tokenizer_encode failed on {shortened(text)!r}: {error!r:.200}; it must turn every text "
                "into a list or a one-dimensional tensor of ids"
            ) from error
        return tuple(checked_ids(ids, f"the tokenizer's ids of {shortened(text)!r}", self._vocab_size))

    def decode(self, ids: Sequence[int]) -> str:
        kept = [token for token in ids if token not in self.eos_ids]
        if not kept:
            return ""
        try:
            text = self._decode(torch.tensor(kept, dtype=torch.int64))
            if not isinstance(text, str):
                raise TypeError(f"it returned {type(text).__name__}, not str")
        except Exception as error:  # anybody's function
            raise DataError(
                f"tokenizer_decode failed on the {len(kept)} ids {kept[:8]}: {error!r:.200}; it must turn "
                "every row of ids that the model may write into text"
            ) from error
        return text


class HuggingFaceCodec:
    """A codec from a Hugging Face tokenizer, with its chat template where it has one.

    The tokenizer is used as an object; this module does not import transformers.
    extra_eos_ids: further ending tokens, for example from the model's generation config.
    vocab_size: the model's; ids at or over it are a DataError.
    What people or models wrote never becomes a special token, even if it spells one.
    """

    def __init__(
        self, tokenizer: Any, *, extra_eos_ids: Sequence[int] = (), vocab_size: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self._vocab_size = vocab_size
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
        return known_ids(ids, prompt, self._vocab_size)

    def response_ids(self, prompt: str, response: str) -> tuple[int, ...]:
        # A response is tokenized where it stands, because a word's tokens depend on what precedes it.
        before = self._template_tail if self.has_chat_template else prompt
        head, whole = self.continuation_ids(before), self.continuation_ids(before + response)
        fits = whole[: len(head)] == head
        ids = whole[len(head) :] if fits else self.continuation_ids(response)
        return ids + known_ids(self.eos_ids[:1], "", self._vocab_size)

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return known_ids(tuple(ids), text, self._vocab_size)

    def decode(self, ids: Sequence[int]) -> str:
        # Behind an anchor, because tokenizers drop the blank that begins a text.
        anchored = self.tokenizer.decode([*self._anchor, *ids], skip_special_tokens=True)
        before = self.tokenizer.decode(list(self._anchor), skip_special_tokens=True)
        return str(anchored[len(before) :])

    @cached_property
    def _anchor(self) -> tuple[int, ...]:
        return self.continuation_ids("a")

    def _chat_ids(self, prompt: str) -> tuple[int, ...]:
        ids = self._template_ids(self._rendered(prompt))
        if tuple(token for token in ids if token in self._special_ids) == self._template_specials:
            return ids
        # The prompt spells a special token, as it is or once the tokenizer has normalized it: template and
        # prompt are tokenized apart.
        before, _, after = self._rendered(_MARK).partition(_MARK)
        return self._template_ids(before) + self.continuation_ids(prompt) + self._template_ids(after)

    def _template_ids(self, text: str) -> tuple[int, ...]:
        ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return known_ids(ids, text, self._vocab_size)

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
    def _special_ids(self) -> set[int]:
        """But not what stands for unknown letters, which is nothing that a text spells."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return {*self.tokenizer.all_special_ids, *added} - {getattr(self.tokenizer, "unk_token_id", None)}

    @cached_property
    def _template_specials(self) -> tuple[int, ...]:
        """The special tokens of the template around a prompt that spells none."""
        return tuple(i for i in self._template_ids(self._rendered(_MARK)) if i in self._special_ids)

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
        return next((token for token in tail if token in self._special_ids), None)


_MARK = "contentmark"  # stands for a message's content when a template is looked at

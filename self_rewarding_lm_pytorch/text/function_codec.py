"""A codec from two functions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.records import Conversation
from self_rewarding_lm_pytorch.text.chat import Chat
from self_rewarding_lm_pytorch.text.conversations import plain_text
from self_rewarding_lm_pytorch.text.ids import checked_ids, known_ids, shortened
from self_rewarding_lm_pytorch.text.rendering import Rendering, rendering_fault
from self_rewarding_lm_pytorch.text.templates import TEMPLATES, compiled, marks_are_missing, rendered


class FunctionCodec(Rendering):
    """A codec from an `encode`/`decode` pair of functions, as the published interface takes.

    encode: str -> 1-D tensor or list of ids (a float tensor is cast, as long as its values are whole).
    decode: gets a 1-D int64 tensor on the CPU, returns str.
    vocab_size: ids at or over it are an error, so that they cannot crash the embedding later.
    chat: how prompts are put into chat; without its template a prompt is one user's text, or a system's and
        a user's.
    A function that fails, or gives something else, is a DataError with what it was given; an eos_id that no
    token can have is a ConfigError.
    """

    def __init__(
        self,
        encode: Callable[[str], Any],
        decode: Callable[[Tensor], str],
        *,
        eos_id: int | None = None,
        vocab_size: int | None = None,
        chat: Chat | None = None,
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._vocab_size = vocab_size
        self.eos_ids = () if eos_id is None else (_checked_end(eos_id, vocab_size),)
        self.chat = chat or Chat()
        self.has_chat_template = self.chat.template is not None

    def with_chat(self, chat: Chat) -> FunctionCodec:
        """The same functions. Raises ConfigError for a template that cannot be used with them."""
        if chat.template == "chatml":
            raise marks_are_missing("a tokenizer of two functions has no special tokens")
        if chat.template is not None:
            compiled(TEMPLATES.get(chat.template, chat.template))
        eos_id = next(iter(self.eos_ids), None)
        size = self._vocab_size
        made = FunctionCodec(self._encode, self._decode, eos_id=eos_id, vocab_size=size, chat=chat)
        if made.has_chat_template:
            made.check_template()
        return made

    def as_judge(self) -> FunctionCodec:
        """As judge prompts are rendered."""
        judge = self.chat.for_judge()
        return self if judge == self.chat else self.with_chat(judge)

    def prompt_ids(self, prompt: str | Conversation) -> tuple[int, ...]:
        return self.continuation_ids(self._text(prompt))

    def response_ids(self, prompt: str | Conversation, response: str) -> tuple[int, ...]:
        ids = self.continuation_ids(self._lead + response)
        return ids + known_ids(self.eos_ids[:1], "", self._vocab_size)

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
        return text.removeprefix(self._lead)

    def _text(self, prompt: str | Conversation) -> str:
        turns = self._turns(prompt)
        if not self.has_chat_template:
            return plain_text(turns)
        try:
            return self._render(turns, True)
        except Exception as error:  # whatever a template raises
            raise rendering_fault(self._render, turns, error) from error

    def _render(self, conversation: Conversation, generate: bool) -> str:
        return rendered(self._compiled, conversation, generate, self.chat.arguments)

    @cached_property
    def _compiled(self) -> Any:
        assert self.chat.template is not None
        return compiled(TEMPLATES.get(self.chat.template, self.chat.template))


def _checked_end(eos_id: Any, vocab_size: int | None) -> int:
    size = math.inf if vocab_size is None else vocab_size
    try:
        if not isinstance(eos_id, bool) and 0 <= (place := operator.index(eos_id)) < size:
            return place
    except TypeError:
        pass
    raise ConfigError(
        f"eos_id is {eos_id!r:.60}, which no token of the model has, so no response would ever end; give the "
        f"id of its end of sequence, a whole number from 0 to {size - 1}, or leave it out where it has none"
    )

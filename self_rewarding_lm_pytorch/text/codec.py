"""What the rest may ask of a tokenizer. It knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from self_rewarding_lm_pytorch.records import Conversation


class Codec(Protocol):
    """Text to tokens and back; one codec renders prompts for training and sampling alike.

    A prompt is one user's text, or a conversation that ends with the user's message to be answered.
    """

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a response; the first is the one written in training data. May be empty."""
        ...

    def prompt_ids(self, prompt: str | Conversation) -> tuple[int, ...]:
        """The prompt as the policy reads it, up to where its response begins.

        Raises DataError for a conversation that cannot be rendered.
        """
        ...

    def response_ids(self, prompt: str | Conversation, response: str) -> tuple[int, ...]:
        """The response as a continuation of the prompt, ended by an end-of-sequence token if known."""
        ...

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        """Plain text put after other text: no template, no special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens left out."""
        ...


def judging_codec(codec: Codec) -> Codec:
    """The same tokenizer as a judge's prompt is rendered with it: without the policy's system text."""
    as_judge = getattr(codec, "as_judge", None)
    found: Codec = codec if as_judge is None else as_judge()
    return found

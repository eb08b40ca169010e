"""Text to tokens and back. Token ids and the target mask are born here, together.

A codec is whatever turns text into ids; it knows nothing of models. One codec renders the prompt for
training, sampling and judging alike, so that what is trained is what is later generated.
"""

from self_rewarding_lm_pytorch.text.chat import Chat
from self_rewarding_lm_pytorch.text.codec import Codec, judging_codec
from self_rewarding_lm_pytorch.text.conversations import (
    as_asked,
    examples_from_conversation,
    source_of,
    transcript,
)
from self_rewarding_lm_pytorch.text.examples import (
    example_from_item,
    example_from_parts,
    example_from_text,
)
from self_rewarding_lm_pytorch.text.function_codec import FunctionCodec
from self_rewarding_lm_pytorch.text.huggingface_codec import HuggingFaceCodec
from self_rewarding_lm_pytorch.text.ids import checked_ids, known_ids, shortened, unpadded_length
from self_rewarding_lm_pytorch.text.reasoning import UNFINISHED, Reasoning, reasoning_of

__all__ = [
    "UNFINISHED",
    "Chat",
    "Codec",
    "FunctionCodec",
    "HuggingFaceCodec",
    "Reasoning",
    "as_asked",
    "checked_ids",
    "example_from_item",
    "example_from_parts",
    "example_from_text",
    "examples_from_conversation",
    "judging_codec",
    "known_ids",
    "reasoning_of",
    "shortened",
    "source_of",
    "transcript",
    "unpadded_length",
]

# Resolved plans and manifests show objects by their qualified names, which are those people import.
FunctionCodec.__module__ = HuggingFaceCodec.__module__ = __name__

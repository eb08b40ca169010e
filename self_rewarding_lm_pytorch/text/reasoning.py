"""What a thinking model writes before its answer, told from the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.text.codec import Codec

UNFINISHED = "its reasoning never ended"
"""Why a response, or a judge's vote, of which only reasoning was written has no score."""


@dataclass(frozen=True)
class Reasoning:
    """The marks around it. What is trained on is never cut; these tell only what is shown and parsed."""

    begin: str = "<think>"
    end: str = "</think>"
    is_open: bool = False  # whether the chat template itself writes `begin` before the response

    def answer(self, text: str) -> str | None:
        """What stands behind the reasoning, its leading blanks left out; None where that never ended.

        A text without reasoning is its own answer. The first `end` counts: what follows it is the answer.
        """
        _, ended, answer = text.partition(self.end)
        if ended:
            return answer.lstrip()
        return None if self.is_open or text.lstrip().startswith(self.begin) else text


def end_ids(codec: Codec, reasoning: Reasoning) -> tuple[int, ...]:
    """The tokens that end reasoning, wherever it stopped."""
    mark_ids = getattr(codec, "mark_ids", codec.continuation_ids)
    found: tuple[int, ...] = mark_ids(reasoning.end)
    return found


def marks_of(codec: Codec | None) -> Reasoning | None:
    """The same marks for a model whose template is not known here, as a served one's."""
    found = reasoning_of(codec)
    return None if found is None else replace(found, is_open=False)


def reasoning_of(codec: Codec | None) -> Reasoning | None:
    """How responses of this codec's model reason, where a plan asks to tell reasoning and answer apart."""
    found: Reasoning | None = getattr(codec, "reasoning", None)
    return found

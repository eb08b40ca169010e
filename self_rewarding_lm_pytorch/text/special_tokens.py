"""Which of a Hugging Face tokenizer's tokens are special: marks that no text may write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SpecialTokens:
    """Those the tokenizer calls special, and added ones that its chat template writes, which not all call so.

    But not what stands for unknown letters, which is nothing that a text spells.

    written: tokens of what the template writes around turns.
    """

    def __init__(self, tokenizer: Any, written: Sequence[int] = ()) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {number for number, token in added.items() if getattr(token, "special", True)}
        unknown = getattr(tokenizer, "unk_token_id", None)
        self.ids = {*tokenizer.all_special_ids, *special, *({*added} & {*written})} - {unknown}

    def among(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The special ones of these, in order."""
        return tuple(token for token in ids if token in self.ids)


def spelled_as_one(tokenizer: Any) -> dict[str, int]:
    """Texts that the tokenizer turns into one added token, and its id."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    if added:
        return {str(token): number for number, token in added.items()}
    return dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))

"""Rows of token ids, checked."""

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import DataError

_OTHER_TOKENIZER = (
    "take the tokenizer that belongs to this model, or make the model's embedding as large as its vocabulary"
)


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
        limit = "" if top is None else f" (the model knows 0 to {top - 1}); {_OTHER_TOKENIZER}"
        raise DataError(f"{what} contain {int(whole[outside][0])}, outside the vocabulary{limit}")
    found: list[int] = whole.tolist()
    return found


def known_ids(ids: tuple[int, ...], text: str, vocab_size: int | None) -> tuple[int, ...]:
    """The tokenizer's ids of the text (empty: of what ends a response), or a DataError for one too large."""
    if vocab_size is not None and ids and max(ids) >= vocab_size:
        what = f"ids of {shortened(text)!r} contain" if text else "end-of-sequence token is"
        raise DataError(
            f"the tokenizer's {what} {max(ids)}, outside the vocabulary (the model knows 0 to "
            f"{vocab_size - 1}); {_OTHER_TOKENIZER}"
        )
    return ids


def shortened(text: str, limit: int = 60) -> str:
    """Text for a message: its beginning."""
    return text if len(text) <= limit else text[: limit - 3] + "..."

"""Text that files and tokenizers can hold."""

from __future__ import annotations

from self_rewarding_lm_pytorch.errors import DataError


def checked_text(text: str, where: str) -> str:
    """The text; a DataError where it holds what is no text to tokenizers and files."""
    wrong = "\0" if "\0" in text else ""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        wrong = text[error.start]
    if wrong:
        place = text.index(wrong)
        name = "a NUL character" if wrong == "\0" else f"half a surrogate pair, {wrong!r},"
        raise DataError(
            f"{where} holds {name} at character {place}, behind {text[max(0, place - 30) : place]!r}; "
            "tokenizers and files end or break there, so take it out"
        )
    return text

"""Rows by the names that people give their columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from self_rewarding_lm_pytorch.errors import DataError

_RESPONSE_NAMES = ("response", "completion", "output", "answer")
_PROMPT_NAMES = ("prompt", "instruction", "question")


def prompt_text(row: Any, number: int) -> str:
    """A row of a prompt set: text itself, or a mapping with a prompt column."""
    text = row if isinstance(row, str) else _column(row, _PROMPT_NAMES, number)
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"prompt {number} is {text!r:.60}; a prompt must be text that is not empty: write it, or take "
            "the row out"
        )
    return checked_text(text, f"prompt {number}")


def prompt_and_response(row: Any, number: int) -> tuple[str, str]:
    """A row of a supervised set: a mapping with a prompt and a response."""
    prompt, response = _column(row, _PROMPT_NAMES, number), _column(row, _RESPONSE_NAMES, number)
    if not isinstance(prompt, str) or not isinstance(response, str) or not response:
        raise DataError(
            f"item {number} has prompt {prompt!r:.60} and response {response!r:.60}; both must be text, "
            "and an empty response would train on nothing: write it, or take the row out"
        )
    where = f"item {number}"
    return checked_text(prompt, where), checked_text(response, where)


def prompt_chosen_rejected(row: Any, number: int) -> tuple[str, str, str]:
    """A row of a preference set."""
    found = [_column(row, names, number) for names in (_PROMPT_NAMES, ("chosen",), ("rejected",))]
    if not all(isinstance(text, str) for text in found) or not found[1] or not found[2]:
        raise DataError(
            f"pair {number} must hold prompt, chosen and rejected as text, none of the last two empty; got "
            f"{row!r:.120}: write what is missing, or take the row out"
        )
    prompt, chosen, rejected = (checked_text(text, f"pair {number}") for text in found)
    return prompt, chosen, rejected


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


def _column(row: Any, names: tuple[str, ...], number: int) -> Any:
    if not isinstance(row, Mapping):
        raise DataError(f"item {number} is {type(row).__name__}; expected a mapping with {names[0]!r}")
    for name in names:
        if name in row:
            return row[name]
    raise DataError(
        f"item {number} has the columns {sorted(map(str, row))}, none of them {' or '.join(names)}; "
        "rename the column"
    )

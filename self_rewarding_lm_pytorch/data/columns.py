"""A row as a prompt, as a conversation to train on, or as a pair; `formats.py` says which forms there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from self_rewarding_lm_pytorch.data.conversations import conversation_of, in_order, is_messages
from self_rewarding_lm_pytorch.data.roles import BELOW, Roles
from self_rewarding_lm_pytorch.data.texts import checked_text
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Conversation, Message

__all__ = ["answered_of", "checked_text", "pair_of", "prompt_of", "prompt_text", "supervised_of"]

_BETWEEN = "\n\n"  # what the system says and a question, where both must be one text


def prompt_of(row: Any, number: int) -> str | Conversation:
    """A row of a prompt set: text, or a conversation that ends with the user's message to be answered.

    Of a conversation that ends with an answer, that answer is left out. Raises DataError with the row's
    number.
    """
    where = f"prompt {number}"
    if isinstance(row, str):
        return _not_empty(row, where)
    roles = Roles.of(row, number)
    if (column := roles.column("prompt", number)) is not None:
        turns = _prompt_turns(row, roles, column, number, where)
    elif (column := roles.column("messages", number)) is not None:
        turns = _with_system(conversation_of(row[column], where), row, roles, number)
    elif is_messages(row.get("chosen")) and is_messages(row.get("rejected")):
        turns = _pair_turns(row, roles, number)[0]
    else:
        roles.needed("prompt", number)  # which says what is missing
        raise AssertionError
    turns = turns[:-1] if turns[-1].role == "assistant" else turns
    _not_empty(in_order(turns, where)[-1].content, where)
    return turns[0].content if len(turns) == 1 else turns


def prompt_text(row: Any, number: int) -> str:
    """`prompt_of` where only text will do: what the system says stands before the question.

    Raises DataError for a conversation of several questions.
    """
    found = prompt_of(row, number)
    if isinstance(found, str):
        return found
    if sum(turn.role == "user" for turn in found) > 1:
        raise DataError(
            f"prompt {number} is a conversation of {len(found)} messages, but only single questions can be "
            "used here; take the first of each (turns: first), or other data"
        )
    return _BETWEEN.join(turn.content for turn in found)


def supervised_of(row: Any, number: int) -> Conversation:
    """A row of a supervised set: a conversation that ends with an assistant's message.

    Raises DataError with the row's number, also where no message of it is to be trained on.
    """
    turns = answered_of(row, number)
    if not any(turn.is_trained_on for turn in turns):
        raise DataError(
            f"item {number}: each of its answers has weight 0, so there is nothing to train on; give one "
            "that is to be learned weight 1, or take the row out"
        )
    return turns


def answered_of(row: Any, number: int) -> Conversation:
    """A row whose last answer is looked at: the same, whatever its messages weigh."""
    where = f"item {number}"
    roles = Roles.of(row, number)
    is_told_twice = roles.has("messages") and roles.has("prompt") and roles.has("response")
    if is_told_twice:
        prompt, response, messages = (roles.columns[name][0] for name in ("prompt", "response", "messages"))
        raise DataError(
            f"{where} has {messages!r}, and {prompt!r} with {response!r}; say which to train on: "
            f"{{file: ..., messages: {messages}}} or {{file: ..., prompt: {prompt}, response: {response}}}"
        )
    messages_column = roles.column("messages", number)
    if messages_column is not None and not roles.has("response"):
        turns = in_order(
            _with_system(conversation_of(row[messages_column], where), row, roles, number), where
        )
        if turns[-1].role != "assistant":
            raise DataError(
                f"{where} ends with the {turns[-1].role}'s message {turns[-1].content!r:.60}, which nothing "
                "answers; take that message out, or the row"
            )
        return turns
    column, response = roles.needed("prompt", number), row[roles.needed("response", number)]
    is_text = isinstance(response, str) and response
    if not (isinstance(row[column], str) or is_messages(row[column])) or not (
        is_text or is_messages(response)
    ):
        raise DataError(
            f"{where} has prompt {row[column]!r:.60} and response {response!r:.60}; both must be text, "
            "and an empty response would train on nothing: write it, or take the row out"
        )
    asked = _prompt_turns(row, roles, column, number, where)
    return in_order((*asked, *_answer_turns(response, where)), where)


def pair_of(row: Any, number: int) -> tuple[Conversation, str, str]:
    """A row of a preference set: what was asked, and the chosen and the rejected answer to it.

    Raises DataError with the row's number.
    """
    return _pair_turns(row, Roles.of(row, number), number)


def _pair_turns(row: Mapping[str, Any], roles: Roles, number: int) -> tuple[Conversation, str, str]:
    where = f"pair {number}"
    sides = [row[roles.needed(name, number)] for name in ("chosen", "rejected")]
    if all(isinstance(side, str) and side for side in sides):
        if not roles.has("prompt") and not roles.has("messages"):
            _refuse_joined(sides, where)
        asked = _pair_prompt(row, roles, number, where)
        return asked, checked_text(sides[0], where), checked_text(sides[1], where)
    if not all(is_messages(side) for side in sides):
        raise _no_pair(row, where)
    chosen, rejected = (
        conversation_of(side, f"{where}, {name}") for side, name in zip(sides, _SIDES, strict=True)
    )
    if len(chosen) == len(rejected) == 1:
        asked = _pair_prompt(row, roles, number, where)
    else:
        asked = _common_beginning(chosen, rejected, where)
        asked = asked if asked[0].role == "system" else _with_system(asked, row, roles, number)
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        raise DataError(
            f"{where}: chosen ends with the {chosen[-1].role}'s message and rejected with the "
            f"{rejected[-1].role}'s; both must end with the assistant's: take the row out"
        )
    in_order((*asked, chosen[-1]), where)
    return asked, chosen[-1].content, rejected[-1].content


_SIDES = ("chosen", "rejected")


def _common_beginning(chosen: Conversation, rejected: Conversation, where: str) -> Conversation:
    """All but the last messages, which both sides must have in common."""
    if chosen[:-1] == rejected[:-1]:
        return chosen[:-1]
    place = next(
        (i for i, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other),
        min(len(chosen), len(rejected)),
    )
    raise DataError(
        f"{where}: chosen and rejected part at message {place} of {len(chosen)} and {len(rejected)}; they "
        "must be the same up to their last messages, which answer the same: mend the row, or take it out"
    )


def _refuse_joined(sides: Sequence[str], where: str) -> None:
    """DataError where both sides, which are all there is, begin with a prompt."""
    alike = takewhile(lambda chars: chars[0] == chars[1], zip(*sides, strict=False))
    begin = "".join(char for char, _ in alike).strip()
    if len(begin) >= 10:  # two answers to one prompt begin with a word or two in common, too
        raise DataError(
            f"{where} has no prompt, and chosen and rejected both begin with {begin[:48]!r}: it seems that "
            "the prompt stands in each of them, where it would be trained on as part of the answer. Split it "
            "off: write prompt, chosen and rejected as columns, or both sides as lists of messages"
        )


def _pair_prompt(row: Mapping[str, Any], roles: Roles, number: int, where: str) -> Conversation:
    if not roles.has("prompt") and (column := roles.column("messages", number)) is not None:
        asked = _with_system(conversation_of(row[column], where), row, roles, number)
    else:
        column = roles.needed("prompt", number)
        if not isinstance(row[column], str) and not is_messages(row[column]):
            raise _no_pair(row, where)
        asked = _prompt_turns(row, roles, column, number, where)
    in_order(asked, where)
    if asked[-1].role != "user":
        raise DataError(f"{where}: its prompt must end with the user's message, not with {asked[-1].role}'s")
    return asked


def _no_pair(row: Any, where: str) -> DataError:
    told = ", ".join(
        f"{name}: {value!r:.40}" for name, value in row.items()
    )  # each short, so that all is seen
    return DataError(
        f"{where} must hold prompt, chosen and rejected as text, or these as messages, none of the last two "
        f"empty; got {told:.400}: write what is missing, or take the row out"
    )


def _prompt_turns(row: Mapping[str, Any], roles: Roles, column: str, number: int, where: str) -> Conversation:
    """What a prompt column, and what belongs to it, comes to."""
    value = row[column]
    if is_messages(value):
        return _with_system(conversation_of(value, where), row, roles, number)
    if not isinstance(value, str):
        raise _no_prompt(value, where)
    parts = [value]
    if (below := roles.column("input", number)) is not None and row[below] is not None:
        if not isinstance(row[below], str):
            raise DataError(f"{where}: {below} is {row[below]!r:.60}; it must be text, or null")
        parts += [row[below]] if row[below].strip() else []
    asked = Message("user", checked_text(BELOW.join(parts), where))
    return _with_system((*_history(row, roles, number, where), asked), row, roles, number)


def _history(row: Mapping[str, Any], roles: Roles, number: int, where: str) -> Conversation:
    """Earlier rounds, [question, answer] each."""
    column = roles.column("history", number)
    rounds = row[column] if column is not None else None
    turns: list[Message] = []
    for one in rounds or ():
        is_two = isinstance(one, Sequence) and not isinstance(one, str) and len(one) == 2
        if not is_two or not all(isinstance(text, str) and text for text in one):
            raise DataError(
                f"{where}: history is {rounds!r:.80}; it must be a list of [question, answer] texts"
            )
        asked, answered = (checked_text(text, where) for text in one)
        turns += [Message("user", asked), Message("assistant", answered)]
    return tuple(turns)


def _with_system(turns: Conversation, row: Mapping[str, Any], roles: Roles, number: int) -> Conversation:
    column = roles.column("system", number)
    said = row[column] if column is not None else None
    if said is None or said == "":
        return turns
    if not isinstance(said, str):
        raise DataError(f"item {number}: {column} is {said!r:.60}; it must be text, or null")
    if turns and turns[0].role == "system":
        if turns[0].content == said:
            return turns
        raise DataError(
            f"item {number} has the column {column!r} and a system's message of its own, which differ: "
            f"{said!r:.40}, {turns[0].content!r:.40}; leave one of them out"
        )
    return (Message("system", checked_text(said, f"item {number}")), *turns)


def _answer_turns(response: Any, where: str) -> Conversation:
    if not isinstance(response, str):
        return conversation_of(response, where)
    return (Message("assistant", checked_text(response, where)),)


def _not_empty(text: Any, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise _no_prompt(text, where)
    return checked_text(text, where)


def _no_prompt(value: Any, where: str) -> DataError:
    return DataError(
        f"{where} is {value!r:.60}; a prompt must be text that is not empty: write it, or take the row out"
    )

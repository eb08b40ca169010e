"""Lists of messages as people keep them, read as conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from self_rewarding_lm_pytorch.data.texts import checked_text
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Conversation, Message, Role, Weight

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
"""What a message's `role` (OpenAI) or `from` (ShareGPT) may say."""
_TOOLS = ("tool", "function", "function_call", "observation", "ipython")


def is_messages(value: Any) -> bool:
    """Whether a cell holds messages: a list whose first item is one, or one alone."""
    if isinstance(value, Mapping):
        return _is_message(value)
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and bool(value) and _is_message(value[0])


def conversation_of(value: Any, where: str) -> Conversation:
    """The messages of a cell, in order. Raises DataError for what is no message, tools, and pictures.

    value: {role, content} or {from, value} each; content may be a list of text parts. An assistant's may
        have a weight, 0 or 1. One message may stand alone, outside a list.
    """
    given = _single(value) if isinstance(value, Mapping) else value
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise DataError(
            f"{where} holds {value!r:.80} where a conversation is wanted; give a list of messages, each "
            "{role, content} or {from, value}"
        )
    return tuple(_message(one, f"{where}, message {place}") for place, one in enumerate(given))


def has_weights(value: Any) -> bool:
    """Whether a cell's messages tell of any which it weighs."""
    given = _single(value) if isinstance(value, Mapping) else value
    return any("weight" in one for one in given)


def in_order(turns: Conversation, where: str) -> Conversation:
    """The same; DataError where it is not a system's message at most, then user and assistant in turn."""
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    for place, turn in enumerate(spoken):
        due = ("user", "assistant")[place % 2]
        if turn.role != due:
            number = place + len(turns) - len(spoken)
            raise DataError(
                f"{where}: message {number} is the {turn.role}'s, where the {due}'s is due: "
                f"{turn.content!r:.60}. A conversation is a system's message, if any, and then the user's "
                "and the assistant's in turn; join two of one speaker, or take the row out"
            )
    if not spoken:
        raise DataError(f"{where} holds no user's message; write one, or take the row out")
    return turns


def first_turn(value: Any, number: int) -> dict[str, Any]:
    """{prompt, response} of the first question; what the system is told before it belongs to the prompt.

    An answer that is not trained on stays a message, which says so.
    """
    turns: list[Message] = []
    given = _single(value) if isinstance(value, Mapping) else value
    messages = given if isinstance(given, Sequence) and not isinstance(given, str) else ()
    for place, one in enumerate(messages):
        if not _is_message(one) or not (one.get("content") or one.get("value")):
            break
        turns.append(_message(one, f"item {number}, message {place}"))
        if turns[-1].role == "assistant":
            break
    if tuple(turn.role for turn in turns) not in (("user", "assistant"), ("system", "user", "assistant")):
        raise DataError(
            f"item {number} holds no conversation that begins with a user's and an assistant's message: "
            f"{value!r:.100}"
        )
    *asked, answer = turns
    kept = {"role": "assistant", "content": answer.content, "weight": 0}
    return {
        "prompt": "\n\n".join(turn.content for turn in asked),
        "response": answer.content if answer.is_trained_on else [kept],
    }


def _single(value: Mapping[str, Any]) -> list[Any]:
    """One message; or, as `datasets` gives a sequence of records, one list for each of their keys."""
    lists = [each for each in value.values() if isinstance(each, list)]
    if len(lists) < len(value) or len({len(each) for each in lists}) != 1:
        return [value]
    return [dict(zip(value, each, strict=True)) for each in zip(*lists, strict=True)]


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        {"role", "content"} <= set(value) or {"from", "value"} <= set(value)
    )


def _message(given: Any, where: str) -> Message:
    if not _is_message(given):
        if isinstance(given, Mapping) and given.get("tool_calls"):
            raise _tools(where)
        raise DataError(f"{where} is {given!r:.80}; a message is {{role, content}} or {{from, value}}")
    said, content = (given["role"], given["content"]) if "role" in given else (given["from"], given["value"])
    if said in _TOOLS or given.get("tool_calls") or given.get("function_call"):
        raise _tools(where)
    if said not in ROLES:
        raise DataError(f"{where} is by {said!r:.40}; known speakers: {', '.join(ROLES)}")
    text = content if isinstance(content, str) else _joined_parts(content, where)
    role = ROLES[said]
    if role == "assistant" and not text:
        raise DataError(
            f"{where} is an empty response, which would train on nothing: write it, or take the row out"
        )
    return Message(role, checked_text(text, where), _weight(given.get("weight"), role, where))


def _weight(given: Any, role: Role, where: str) -> Weight:
    """As OpenAI's fine-tuning data have it: of weight 0 is what is not trained on."""
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    if given is None:
        return 1
    if is_number and given == 0:
        return 0
    if role != "assistant":
        raise DataError(
            f"{where} is the {role}'s and has the weight {given!r:.40}, but only the assistant's messages "
            "are trained on; take the weight out"
        )
    if is_number and given == 1:
        return 1
    raise DataError(
        f"{where} has the weight {given!r:.40}; a message is trained on (1) or not (0), and graded weights "
        "are not supported: write 0 or 1, or take the weight out"
    )


def _joined_parts(content: Any, where: str) -> str:
    parts = content if isinstance(content, Sequence) else []
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or kind != "text" or not isinstance(part.get("text"), str):
            raise DataError(
                f"{where} has a part of type {kind!r:.40}; only text is read, so take the rows out that "
                f"need more: {part!r:.60}"
            )
        texts.append(part["text"])
    if not texts:
        raise DataError(f"{where} says {content!r:.60}; it must be text: write it, or take the row out")
    return "".join(texts)


def _tools(where: str) -> DataError:
    return DataError(
        f"{where} is a tool's or calls one, which this library does not train on; take such conversations out"
    )

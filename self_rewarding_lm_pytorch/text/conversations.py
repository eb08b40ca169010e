"""Conversations as training examples, and as judges and pages show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Conversation, Example, Message, Prompt, Role
from self_rewarding_lm_pytorch.text.chat import BETWEEN, joined
from self_rewarding_lm_pytorch.text.ids import shortened

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.text.codec import Codec
    from self_rewarding_lm_pytorch.text.reasoning import Reasoning

_NAMES: dict[Role, str] = {"system": "System", "user": "User", "assistant": "Assistant"}


def transcript(conversation: Conversation, reasoning: Reasoning | None = None) -> str:
    """A conversation as one text; a lone user's message is its own.

    reasoning: where given, earlier answers stand there without theirs.
    """
    if len(conversation) == 1 and conversation[0].role == "user":
        return conversation[0].content
    return BETWEEN.join(f"{_NAMES[turn.role]}: {_said(turn, reasoning)}" for turn in conversation)


def _said(turn: Message, reasoning: Reasoning | None) -> str:
    if reasoning is None or turn.role != "assistant":
        return turn.content
    answer = reasoning.answer(turn.content)
    return turn.content if answer is None else answer  # people's answers may hold a mark that is none


def source_of(prompt: Prompt) -> str | Conversation:
    """What a prompt was made of, for whoever tokenizes it again."""
    return prompt.turns or prompt.text


def as_asked(conversation: Conversation) -> str | Conversation:
    """A lone user's message as the text it is, which codecs that know no conversations take as well."""
    is_lone = len(conversation) == 1 and conversation[0].role == "user"
    return conversation[0].content if is_lone else conversation


def checked(conversation: Conversation, *, ends_with: Role) -> Conversation:
    """The same; DataError where roles are out of order, with the number of the turn, from 1."""
    first = 1 if conversation and conversation[0].role == "system" else 0
    for place, turn in enumerate(conversation[first:]):
        due: Role = "assistant" if place % 2 else "user"
        if turn.role != due:
            raise DataError(
                f"turn {first + place + 1} of a conversation is the {turn.role}'s "
                f"({shortened(turn.content)!r}), but the {due}'s is due: at most one system's message comes "
                "first, then user and assistant take turns; put them in order, or take the conversation out"
            )
    if len(conversation) == first or conversation[-1].role != ends_with:
        what = f"ends with the {conversation[-1].role}'s message" if conversation else "is empty"
        raise DataError(
            f"a conversation {what}, but it must end with the {ends_with}'s, "
            + ("which is answered" if ends_with == "user" else "which is trained on")
        )
    return conversation


def plain_text(turns: Conversation) -> str:
    """A prompt where there is no chat template. Raises DataError where it is more than one user's message."""
    before = turns[:-1]
    if len(before) > 1 or any(turn.role != "system" for turn in before):
        raise DataError(
            f"a conversation of {len(turns)} messages needs a chat template to be one text, but the "
            "tokenizer has none; name one in the plan, such as chat: {template: transcript} (or chatml, a "
            "jinja file, a template's text), or take the first turns alone (turns: first)"
        )
    return joined(turns)


def examples_from_conversation(
    codec: Codec, conversation: Conversation, *, last_only: bool = False
) -> list[Example]:
    """A conversation that ends with an assistant's message, with the assistant's turns as targets.

    Turns of weight 0 are none: before a target they are part of its prompt, behind the last one they are left
    out. last_only: only the last turn is a target; all before it is prompt. Normally one example: its ids
    begin, for each target turn, with the prompt that the turn was the answer to, as it is sampled from.
    Where the template shows earlier turns otherwise than they were generated (without their reasoning, say),
    several examples. Raises DataError for roles out of order, for what cannot be rendered, and where there is
    no target.
    """
    checked(conversation, ends_with="assistant")
    made: list[tuple[list[int], list[bool]]] = []
    for place in _targets(conversation, last_only):
        before = as_asked(conversation[:place])
        head = codec.prompt_ids(before)
        own = codec.response_ids(before, conversation[place].content)
        ids, is_target = made.pop() if made and _begins(head, made[-1][0]) else ([], [])
        is_target = is_target + [False] * (len(head) - len(ids)) + [True] * len(own)
        made.append(([*head, *own], is_target))
    return [_example(ids, is_target) for ids, is_target in made]


def _targets(conversation: Conversation, last_only: bool) -> list[int]:
    """The places of the turns that are trained on. Raises DataError where there are none."""
    places = [place for place, turn in enumerate(conversation) if turn.is_trained_on]
    if last_only and places[-1:] != [len(conversation) - 1]:
        raise DataError(
            "the last answer has weight 0, but here the last answer of a conversation is the one that is "
            "trained on; give it weight 1, end the conversation with an answer before it, or take it out"
        )
    if not places:
        raise DataError(
            "each answer of the conversation has weight 0, so there is nothing to train on; give one that is "
            "to be learned weight 1, or take the conversation out"
        )
    return places[-1:] if last_only else places


def _begins(head: tuple[int, ...], ids: list[int]) -> bool:
    return list(head[: len(ids)]) == ids


def _example(ids: list[int], is_target: list[bool]) -> Example:
    targets = torch.tensor(is_target, dtype=torch.bool)
    targets[:1] = False  # nothing predicts the first token
    return Example(torch.tensor(ids, dtype=torch.int64), targets)

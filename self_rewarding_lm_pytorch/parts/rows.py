"""Prompts and answers as rows of files, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from self_rewarding_lm_pytorch.data.columns import answered_of, prompt_of
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Candidate, Conversation, FinishReason, Prompt
from self_rewarding_lm_pytorch.seeds import address
from self_rewarding_lm_pytorch.text import Codec, Reasoning, reasoning_of, shortened, transcript

Asked = str | Conversation
"""What is to be answered: a user's text, or a conversation that ends with one."""

POLICY = "given"  # of candidates that were read from a file


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as a row has it. prompt_index and candidate are counted where rows do not say them."""

    prompt: Asked
    response: str
    prompt_index: int
    candidate: int
    ids: tuple[int, ...] | None = None  # where the row has them
    tokens: int | None = None
    finish_reason: FinishReason | None = None
    row: Mapping[str, Any] | None = None  # as it was read


def read_answers(source: str, limit: int | None = None) -> list[Answer]:
    """Responses with their prompts, those of a prompt together, in the order in which prompts first come.

    Rows of `generate` and `judge` say which prompt and candidate they are; of other rows, equal prompts are
    one. Raises DataError for rows that are no answers, and for two that are the same candidate.
    """
    found: dict[int, list[Answer]] = {}
    numbers: dict[Asked, int] = {}
    are_numbered: bool | None = None
    for number, values in islice(each_made(source, lambda row, number: (number, row)), limit):
        is_numbered = isinstance(values, Mapping) and "prompt_index" in values and "candidate" in values
        if are_numbered is not None and is_numbered != are_numbered:
            raise DataError(
                f"{source}: row {number} {'says' if is_numbered else 'does not say'} its prompt_index and "
                "candidate, unlike the rows before it; either all rows must, or none"
            )
        are_numbered = is_numbered
        try:
            own = _numbered(values, number) if is_numbered else _counted(values, number, numbers, found)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        found.setdefault(own.prompt_index, []).append(own)
    if not found:
        raise DataError(f"{source} holds no answers, so there is nothing to judge or pair")
    for answers in found.values():
        _check_visit(source, answers)
    return [answer for answers in found.values() for answer in answers]


def _check_visit(source: str, answers: Sequence[Answer]) -> None:
    first, places = answers[0], [answer.candidate for answer in answers]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise DataError(
            f"{source} holds candidate {twice} of prompt {first.prompt_index} twice; take one out"
        )
    if other := next((answer for answer in answers if answer.prompt != first.prompt), None):
        raise DataError(
            f"{source}: prompt_index {first.prompt_index} is said of two prompts, {str(first.prompt)[:60]!r} "
            f"and {str(other.prompt)[:60]!r}, so their answers would be paired; number them apart"
        )


def _numbered(values: Mapping[str, Any], number: int) -> Answer:
    index, candidate, response = values["prompt_index"], values["candidate"], values.get("response")
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in (index, candidate)):
        raise DataError(
            f"row {number} has prompt_index {index!r:.40} and candidate {candidate!r:.40}; both must be "
            "whole numbers, or no row may have them"
        )
    if not isinstance(response, str):
        raise DataError(f"row {number} has the response {response!r:.60}; it must be text")
    prompt = plain(prompt_of({"prompt": values.get("prompt")}, number))
    return Answer(prompt, response, index, candidate, **_known(values, number), row=values)


def _counted(
    values: Any, number: int, numbers: dict[Asked, int], found: Mapping[int, Sequence[Answer]]
) -> Answer:
    conversation = answered_of(values, number)
    prompt = plain(conversation[:-1])
    index = numbers.setdefault(prompt, len(numbers))
    place = len(found.get(index, ()))
    known = _known(values, number) if isinstance(values, Mapping) else {}
    return Answer(prompt, conversation[-1].content, index, place, **known, row=values)


def _known(values: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What rows of ours say of a response beside its text."""
    ids, tokens, ending = (values.get(name) for name in ("ids", "tokens", "finish_reason"))
    if ids is not None and not (isinstance(ids, list) and all(isinstance(each, int) for each in ids)):
        raise DataError(f"row {number} has ids {ids!r:.60}; they must be a list of whole numbers, or absent")
    if tokens is not None and not (isinstance(tokens, int) and tokens >= 0):
        raise DataError(f"row {number} has tokens {tokens!r:.60}; it counts them, or is absent")
    if ending not in (None, "eos", "stop", "length"):
        raise DataError(
            f"row {number} has the finish_reason {ending!r:.60}; known: eos, stop, length, or none at all"
        )
    return {"ids": None if ids is None else tuple(ids), "tokens": tokens, "finish_reason": ending}


def plain(asked: Asked) -> Asked:
    """One user's message alone is a text."""
    is_text = not isinstance(asked, str) and len(asked) == 1 and asked[0].role == "user"
    return asked[0].content if is_text and not isinstance(asked, str) else asked


def prompt_record(
    index: int, asked: Asked, codec: Codec | None, reasoning: Reasoning | None = None
) -> Prompt:
    """As the model reads it; without a codec, for judges that read text alone.

    reasoning: which earlier answers stand without in its text; None: as the codec's.
    """
    ids = () if codec is None else codec.prompt_ids(asked)
    if isinstance(asked, str):
        return Prompt(index, asked, ids)
    return Prompt(index, transcript(asked, reasoning or reasoning_of(codec)), ids, asked)


def candidate_record(answer: Answer) -> Candidate:
    """Where the tokens are not known, ids that are equal for equal texts alone, and as many as there are.

    They serve to tell responses apart and their lengths: where neither ids nor their number are known, in
    characters.
    """
    ids = answer.ids
    if ids is None:
        length = len(answer.response) if answer.tokens is None else answer.tokens
        ids = (address(answer.response),) * length
    ending: FinishReason = answer.finish_reason or "eos"
    return Candidate(answer.prompt_index, 0, answer.candidate, ids, answer.response, ending, 0, POLICY)


def written(prompts: Sequence[Asked]) -> list[Any]:
    """Prompts as rows have them: all texts, or, where one is a conversation, all lists of messages."""
    if all(isinstance(asked, str) for asked in prompts):
        return list(prompts)
    return [messages_of(asked) for asked in prompts]


def messages_of(asked: Asked) -> list[dict[str, str]]:
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    return [{"role": message.role, "content": message.content} for message in asked]


def said(asked: Asked) -> str:
    """The prompt's beginning, for messages."""
    return shortened(asked if isinstance(asked, str) else transcript(asked))

"""How long a data set's rows are: counted where the tokenizer is here, else by characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from self_rewarding_lm_pytorch.data.columns import pair_of, prompt_of, supervised_of
from self_rewarding_lm_pytorch.records import Conversation
from self_rewarding_lm_pytorch.text import Codec

CHARACTERS_PER_TOKEN = 4  # of English with a vocabulary of some ten thousand; rough
_MEASURED = 64  # rows that are tokenized; the others are known by their characters


@dataclass(frozen=True)
class Lengths:
    """Tokens of a data set's rows: all of a row's texts together, and its prompt alone."""

    rows: int
    mean: float
    longest: int
    longest_prompt: int
    is_rough: bool  # by characters alone
    longest_prompt_text: str = ""  # empty where it is a conversation


@dataclass(frozen=True)
class _Texts:
    prompt: str | Conversation
    others: tuple[str, ...] = ()

    @property
    def prompt_characters(self) -> int:
        turns = self.prompt
        return len(turns) if isinstance(turns, str) else sum(len(turn.content) for turn in turns)

    @property
    def characters(self) -> int:
        return self.prompt_characters + sum(map(len, self.others))


def lengths_of(rows: Iterable[Any], name: str, kind: str, codec: Codec | None) -> Lengths | None:
    """Of the source `name` of a stage of this kind; None where its rows are token ids, or there are none.

    The first rows are tokenized, and the longest; the others count by those rows' characters per token.
    Raises DataError for a row that the stage could not read either.
    """
    read, count, total, first = _reader(name, kind), 0, 0, []
    longest: _Texts | None = None
    prompt: _Texts | None = None
    for number, row in enumerate(rows):
        if not isinstance(row, str | dict):
            return None
        texts = read(row, number)
        count, total = count + 1, total + texts.characters
        first += [texts] if number < _MEASURED else []
        longest = max(longest or texts, texts, key=lambda each: each.characters)
        prompt = max(prompt or texts, texts, key=lambda each: each.prompt_characters)
    if longest is None or prompt is None:
        return None
    if codec is None:
        rate = 1 / CHARACTERS_PER_TOKEN
        sizes = round(longest.characters * rate), round(prompt.prompt_characters * rate)
    else:
        rate = sum(_tokens(each, codec) for each in first) / max(1, sum(each.characters for each in first))
        sizes = _tokens(longest, codec), len(codec.prompt_ids(prompt.prompt))
    text = prompt.prompt if isinstance(prompt.prompt, str) else ""
    return Lengths(count, rate * total / count, *sizes, codec is None, text)


def _tokens(texts: _Texts, codec: Codec) -> int:
    """The ends of responses included."""
    others = sum(len(codec.continuation_ids(text)) + 1 for text in texts.others)
    return len(codec.prompt_ids(texts.prompt)) + others


def _reader(name: str, kind: str) -> Callable[[Any, int], _Texts]:
    if name == "prompts":
        return lambda row, number: _Texts(prompt_of(row, number))
    if kind == "dpo":
        return _pair
    return _supervised


def _pair(row: Any, number: int) -> _Texts:
    prompt, chosen, rejected = pair_of(row, number)
    return _Texts(_plain(prompt), (chosen, rejected))


def _supervised(row: Any, number: int) -> _Texts:
    *before, last = supervised_of(row, number)
    return _Texts(_plain(tuple(before)), (last.content,))


def _plain(turns: Conversation) -> str | Conversation:
    """A single question is text to a codec."""
    return turns[0].content if len(turns) == 1 and turns[0].role == "user" else turns

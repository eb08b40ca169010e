"""How long a data set's rows are: counted where the tokenizer is here, else by characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappush, heappushpop
from typing import Any

from self_rewarding_lm_pytorch.data.columns import pair_of, prompt_of, supervised_of
from self_rewarding_lm_pytorch.records import Conversation
from self_rewarding_lm_pytorch.text import Codec, as_asked

CHARACTERS_PER_TOKEN = 4  # of English with a vocabulary of some ten thousand; rough
MEASURED = 64  # rows that are tokenized, first and longest ones; the others are known by their characters


@dataclass(frozen=True)
class Lengths:
    """Tokens of a data set's rows: all of a row's texts together, its prompt alone, and it as an item.

    An item is a prompt with an answer, of a pair the longer one; `longest_row` is its row's number. left_out:
    of the longest rows, those over the stage's bound, which the other numbers but `rows` and means leave out.
    """

    rows: int
    mean: float
    mean_prompt: float
    longest: int
    longest_prompt: int
    longest_item: int
    longest_row: int
    is_rough: bool  # by characters alone
    longest_prompt_text: str = ""  # empty where it is a conversation
    left_out: int = 0


@dataclass(frozen=True)
class _Row:
    number: int
    prompt: str | Conversation
    answers: tuple[str, ...] = ()

    @property
    def prompt_characters(self) -> int:
        turns = self.prompt
        return len(turns) if isinstance(turns, str) else sum(len(turn.content) for turn in turns)

    @property
    def characters(self) -> int:
        return self.prompt_characters + sum(map(len, self.answers))


class _Longest:
    """Of rows that come one at a time, those with the most characters."""

    def __init__(self) -> None:
        self._held: list[tuple[int, int, _Row]] = []  # a heap

    def see(self, row: _Row, characters: int) -> None:
        entry = (characters, -row.number, row)  # of equal ones the first stays
        if len(self._held) < MEASURED:
            heappush(self._held, entry)
        else:
            heappushpop(self._held, entry)

    def rows(self) -> list[_Row]:
        """Longest first."""
        return [row for *_, row in sorted(self._held, reverse=True)]


def lengths_of(
    rows: Iterable[Any], name: str, kind: str, codec: Codec | None, *, bound: int | None = None
) -> Lengths | None:
    """Of the source `name` of a stage of this kind; None where its rows are token ids, or there are none.

    The first rows are tokenized, and the longest; the others count by those rows' characters per token.
    bound: the stage's, on a prompt's or an item's tokens. Raises DataError for a row that the stage could not
    read either.
    """
    read, count, total, of_prompts = _reader(name, kind), 0, 0, 0
    first: list[_Row] = []
    longest, prompts = _Longest(), _Longest()
    for number, given in enumerate(rows):
        if not isinstance(given, str | dict):
            return None
        row = read(given, number)
        count, total, of_prompts = count + 1, total + row.characters, of_prompts + row.prompt_characters
        first += [row] if number < MEASURED else []
        longest.see(row, row.characters)
        prompts.see(row, row.prompt_characters)
    if not count:
        return None
    measure = _Measure(codec)
    rate = measure.rate(first)
    kept, prompt_rows = longest.rows(), prompts.rows()
    is_held = [bound is None or measure.item(row) <= bound for row in kept]
    held = [row for row, is_kept in zip(kept, is_held, strict=True) if is_kept]
    asked = [row for row in prompt_rows if bound is None or measure.item(row) <= bound]
    largest = max(held, key=measure.item, default=None)
    prompt = max(asked, key=measure.prompt, default=None)
    return Lengths(
        rows=count,
        mean=rate * total / count,
        mean_prompt=rate * of_prompts / count,
        longest=max(map(measure.whole, held), default=bound or 0),
        longest_prompt=bound or 0 if prompt is None else measure.prompt(prompt),
        longest_item=bound or 0 if largest is None else measure.item(largest),
        longest_row=0 if largest is None else largest.number,
        is_rough=codec is None,
        longest_prompt_text=prompt.prompt if prompt is not None and isinstance(prompt.prompt, str) else "",
        left_out=is_held.count(False),
    )


class _Measure:
    """Tokens of rows; each is tokenized once. Without a codec by characters."""

    def __init__(self, codec: Codec | None) -> None:
        self._codec = codec
        self._known: dict[int, tuple[int, list[int]]] = {}

    def rate(self, rows: list[_Row]) -> float:
        """Tokens a character."""
        if self._codec is None:
            return 1 / CHARACTERS_PER_TOKEN
        return sum(map(self.whole, rows)) / max(1, sum(row.characters for row in rows))

    def prompt(self, row: _Row) -> int:
        return self._sizes(row)[0]

    def whole(self, row: _Row) -> int:
        """A pair as one row that forks. The ends of answers are counted."""
        prompt, answers = self._sizes(row)
        return prompt + sum(answers)

    def item(self, row: _Row) -> int:
        prompt, answers = self._sizes(row)
        return prompt + max(answers, default=0)

    def _sizes(self, row: _Row) -> tuple[int, list[int]]:
        if row.number not in self._known:
            self._known[row.number] = self._counted(row)
        return self._known[row.number]

    def _counted(self, row: _Row) -> tuple[int, list[int]]:
        if self._codec is None:
            answers = [round(len(text) / CHARACTERS_PER_TOKEN) for text in row.answers]
            return round(row.prompt_characters / CHARACTERS_PER_TOKEN), answers
        codec, prompt = self._codec, row.prompt
        return len(codec.prompt_ids(prompt)), [len(codec.response_ids(prompt, text)) for text in row.answers]


def _reader(name: str, kind: str) -> Callable[[Any, int], _Row]:
    if name == "prompts":
        return lambda row, number: _Row(number, prompt_of(row, number))
    return _pair if kind == "dpo" else _supervised


def _pair(row: Any, number: int) -> _Row:
    prompt, chosen, rejected = pair_of(row, number)
    return _Row(number, as_asked(prompt), (chosen, rejected))


def _supervised(row: Any, number: int) -> _Row:
    """What stands behind the last answer that is trained on is no part of an item."""
    turns = supervised_of(row, number)
    end = max(place for place, turn in enumerate(turns) if turn.is_trained_on)
    *before, last = turns[: end + 1]
    return _Row(number, as_asked(tuple(before)), (last.content,))

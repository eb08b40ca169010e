"""Rows to training examples: text through the codec, or token ids with their prompt's length or mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.columns import pair_of, supervised_of
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.data.readers import Source
from self_rewarding_lm_pytorch.data.room import Room
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Example, PairExample, PreferencePair
from self_rewarding_lm_pytorch.text import (
    Codec,
    as_asked,
    example_from_item,
    example_from_parts,
    examples_from_conversation,
)


def each_example(
    source: Source,
    policy: Policy,
    codec: Codec | None,
    *,
    base: Path | None = None,
    last_only: bool = False,
    room: Room | None = None,
) -> Iterator[Example]:
    """The items of a supervised set, one at a time, as the source is read.

    An item is a mapping with text (prompt and response, or a conversation, whose assistant's turns are the
    targets), or a pair (ids, prompt length or mask). A conversation may be several examples: see
    `text.examples_from_conversation`. last_only: only its last turn is a target. room: what has too many
    tokens is left out and counted there; by default it is refused.
    """
    space = room or Room(policy.max_length)

    def made(row: Any, number: int) -> list[Example]:
        own = _examples(row, number, policy, codec, last_only)
        return [example for example in own if space.holds(len(example), f"item {number}")]

    return chain.from_iterable(each_made(source, made, base=base))


def supervised_examples(
    source: Source,
    policy: Policy,
    codec: Codec | None,
    *,
    base: Path | None = None,
    last_only: bool = False,
) -> list[Example]:
    """All of them in memory."""
    return list(each_example(source, policy, codec, base=base, last_only=last_only))


def _examples(row: Any, number: int, policy: Policy, codec: Codec | None, last_only: bool) -> list[Example]:
    if isinstance(row, Example):
        return [row]
    if isinstance(row, Mapping):
        turns = supervised_of(row, number)
        known = _needed(codec)
        with _told(f"item {number}"):
            return examples_from_conversation(known, turns, last_only=last_only)
    if isinstance(row, tuple | list) and len(row) == 2:
        return [example_from_item(*row, vocab_size=policy.vocab_size, what=f"item {number}")]
    raise DataError(
        f"item {number} is {type(row).__name__}; expected a mapping with prompt and response, or "
        "(token ids, prompt length or prompt mask)"
    )


@contextmanager
def _told(where: str) -> Iterator[None]:
    """A DataError inside says where it is."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _needed(codec: Codec | None) -> Codec:
    if codec is None:
        raise DataError(
            "the data are text but there is no tokenizer; give tokenizer_encode and tokenizer_decode, a "
            "model that brings its tokenizer, or items of token ids"
        )
    return codec


def each_preference_example(
    pairs: Iterable[PreferencePair], certainties: Iterable[float] = (), first: int = 0
) -> Iterator[PairExample]:
    """Stored pairs, ready to train on, one at a time.

    certainties: of their labels, in their order; pairs behind the last one are believed in full.
    first: the index of the first.
    """
    for index, (pair, certainty) in enumerate(
        zip(pairs, chain(certainties, repeat(1.0)), strict=False), first
    ):
        yield PairExample(
            index,
            example_from_parts(pair.prompt_ids, pair.chosen_ids),
            example_from_parts(pair.prompt_ids, pair.rejected_ids),
            pair.margin,
            certainty,
        )


def preference_examples(
    pairs: Sequence[PreferencePair], certainties: Sequence[float] | None = None
) -> list[PairExample]:
    """All of them in memory. certainties: of their labels; None: all are believed in full."""
    return list(each_preference_example(pairs, certainties or ()))


def each_given_pair(
    source: Source,
    policy: Policy,
    codec: Codec | None,
    *,
    base: Path | None = None,
    room: Room | None = None,
) -> Iterator[PairExample]:
    """Pairs that people bring, one at a time, as the source is read.

    A pair is prompt/chosen/rejected text, or (chosen ids, rejected ids, prompt length). room: as for
    `each_example`; a pair's longer side counts.
    """
    space = room or Room(policy.max_length)

    def made(row: Any, number: int) -> list[PairExample]:
        chosen, rejected = _given_sides(row, number, policy, codec)
        is_held = space.holds(max(len(chosen), len(rejected)), f"item {number}")
        return [PairExample(number, chosen, rejected)] if is_held else []

    return chain.from_iterable(each_made(source, made, base=base))


def given_pairs(
    source: Source, policy: Policy, codec: Codec | None, *, base: Path | None = None
) -> list[PairExample]:
    """All of them in memory."""
    return list(each_given_pair(source, policy, codec, base=base))


def _given_sides(row: Any, number: int, policy: Policy, codec: Codec | None) -> list[Example]:
    if isinstance(row, Mapping):
        prompt, *responses = pair_of(row, number)
        known = _needed(codec)
        with _told(f"pair {number}"):
            turns = as_asked(prompt)
            head = known.prompt_ids(turns)  # once for both sides
            return [example_from_parts(head, known.response_ids(turns, response)) for response in responses]
    if isinstance(row, tuple | list) and len(row) == 3:
        names = (f"pair {number}, preferred", f"pair {number}, unpreferred")
        return [
            example_from_item(ids, row[2], vocab_size=policy.vocab_size, what=what)
            for ids, what in zip(row[:2], names, strict=True)
        ]
    raise DataError(
        f"pair {number} is {type(row).__name__}; expected a mapping with prompt, chosen and "
        "rejected, or (preferred ids, unpreferred ids, prompt length)"
    )

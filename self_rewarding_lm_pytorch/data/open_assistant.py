"""Open Assistant's ranked conversations: their first turns, and of these the replies people liked best.

Two forms are read, told apart row by row, with the field names of its public export (LAION-AI/Open-Assistant,
`oasst_data/schemas.py`, and the card of OpenAssistant/oasst1): message trees, whose `prompt` holds `replies`,
and the table of single messages, each with its `parent_id`.
Rank 0 is the best of the replies to one message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.readers import Source, read_rows
from self_rewarding_lm_pytorch.errors import DataError

PROMPTER, ASSISTANT = "prompter", "assistant"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FirstTurn:
    """A conversation's first message and people's ranking of the replies to it."""

    row: int  # where its prompt stands in the source
    prompt: str
    replies: tuple[tuple[str, int], ...]  # (text, rank), best first


def is_tree(row: Any) -> bool:
    """Whether a row is a message tree: its prompt is a message, not a text."""
    return isinstance(row, Mapping) and isinstance(row.get("prompt"), Mapping)


def is_message(row: Any) -> bool:
    """Whether a row is one message of a conversation."""
    return isinstance(row, Mapping) and all(name in row for name in ("message_id", "text", "role"))


def first_turns(
    rows: Iterable[tuple[int, Row]], *, lang: str | None, left_out: Counter[str]
) -> list[FirstTurn]:
    """The first turns of trees and messages (row number, row), in the order of their prompts.

    lang: of prompt and replies, as Open Assistant writes it ("en", "pt-BR"); None takes all. What is not used
    is counted in `left_out` by its reason. Raises DataError for a row whose fields are not as in the export.
    """
    rows = list(rows)
    own = [
        (number, row["prompt"], row["prompt"].get("replies") or []) for number, row in rows if is_tree(row)
    ]
    own += _roots([(number, row) for number, row in rows if not is_tree(row)])
    turns = []
    for number, prompt, replies in sorted(own, key=lambda entry: entry[0]):
        if reason := _unusable(prompt, number, lang):
            left_out[f"prompts {reason}"] += 1
            continue
        ranked = _ranked(number, replies, lang, left_out)
        if ranked:
            turns.append(FirstTurn(number, _text(prompt, number), ranked))
        else:
            left_out["prompts without a ranked reply"] += 1
    return turns


def best_replies(
    source: Source, lang: str | None = "en", *, num: int | None = None, base: Path | None = None
) -> list[dict[str, str]]:
    """{prompt, response} of the reply of rank 0 to each first turn: rows an `sft` stage trains on.

    This is the IFT seed of Self-Rewarding LMs (arXiv 2401.10020, section 3.1.1): first turns, English, rank
    0; the paper uses 3,200. num: only the first so many. Raises DataError where there is none.
    """
    left_out: Counter[str] = Counter()
    rows = list(enumerate(read_rows(source, base=base)))
    for number, row in rows:
        if not is_tree(row) and not is_message(row):
            raise DataError(
                f"item {number} is {row!r:.80}, neither an Open Assistant tree nor a message of one; give "
                "the rows of its export (message trees, or message_id, parent_id, text, role, lang, rank)"
            )
    turns = first_turns(rows, lang=lang, left_out=left_out)
    best = [(turn.prompt, *turn.replies[0]) for turn in turns]
    found = [{"prompt": prompt, "response": text} for prompt, text, rank in best if rank == 0][:num]
    if not found:
        raise DataError(
            f"none of {len(rows):,} Open Assistant rows is a first turn with a reply of rank 0 "
            f"(language {lang or 'any'}), so there is nothing to train on. {told(left_out)}"
        )
    return found


def told(left_out: Mapping[str, int]) -> str:
    """What was left out, in words; empty where nothing was."""
    parts = [f"{count:,} {reason}" for reason, count in sorted(left_out.items()) if count]
    return f"Left out: {'; '.join(parts)}." if parts else ""


def _roots(messages: Sequence[tuple[int, Row]]) -> list[tuple[int, Row, list[Row]]]:
    """Each conversation's first message with its direct replies."""
    places: dict[str, int] = {}
    roots: dict[str, tuple[int, Row, list[Row]]] = {}
    for number, row in messages:
        name = str(row["message_id"])
        if name in places:
            raise DataError(
                f"items {places[name]} and {number} are both message {name!r}, so its replies would count "
                "twice; give each file once"
            )
        places[name] = number
        if row.get("parent_id") is None and row["role"] == PROMPTER:
            roots[name] = (number, row, [])
    for _, row in messages:
        if str(row.get("parent_id")) in roots and row["role"] == ASSISTANT:
            roots[str(row["parent_id"])][2].append(row)
    return list(roots.values())


def _ranked(
    number: int, replies: Any, lang: str | None, left_out: Counter[str]
) -> tuple[tuple[str, int], ...]:
    if not isinstance(replies, Sequence) or not all(isinstance(reply, Mapping) for reply in replies):
        raise DataError(f"item {number}: replies must be a list of messages, not {replies!r:.60}")
    found = []
    for reply in replies:
        if reason := _unusable(reply, number, lang, is_reply=True):
            left_out[f"replies {reason}"] += 1
            continue
        rank = reply.get("rank")
        if rank is None:
            left_out["replies without a rank"] += 1
            continue
        if isinstance(rank, bool) or not isinstance(rank, int | float) or rank != int(rank) or rank < 0:
            raise DataError(
                f"item {number}: a reply has rank {rank!r}; ranks are whole numbers from 0, the best"
            )
        found.append((_text(reply, number), int(rank)))
    return tuple(sorted(found, key=lambda entry: entry[1]))


def _unusable(message: Row, number: int, lang: str | None, *, is_reply: bool = False) -> str:
    """Why a message is left out; empty where it is used. A reply that says no language has its prompt's."""
    if message.get("deleted"):
        return "deleted"
    if not _text(message, number).strip():
        return "without text"
    said = message.get("lang")
    is_other = said != lang and not (said is None and is_reply)
    return f"of another language than {lang}" if lang is not None and is_other else ""


def _text(message: Row, number: int) -> str:
    text = message.get("text")
    if not isinstance(text, str):
        raise DataError(f"item {number}: a message's text is {text!r:.60}; it must be text")
    return text

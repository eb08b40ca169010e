"""Prompts with responses whose worth people have told, read from any of the forms they come in.

    scored     {prompt, response, score}: rows of equal prompts are one prompt with several responses
    rated      {prompt, responses: [...], scores: [...]}
    ranked     {prompt, responses: [...], ranks: [...]}: 0 is the best; equal ranks tie
    best of n  {prompt, responses: [...], best: INDEX}: better than all others, which tie
    compared   {prompt, chosen, rejected}, also as messages that repeat the prompt
    Open Assistant's trees and messages (`data/open_assistant.py`): first turns

The form is found row by row, so that one source may mix them. Scores are points on the judge's scale; ranks,
choices and comparisons only order the responses to one prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.columns import pair_of, prompt_text
from self_rewarding_lm_pytorch.data.conversations import is_messages
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.data.open_assistant import first_turns, is_message, is_tree, told
from self_rewarding_lm_pytorch.data.readers import Source
from self_rewarding_lm_pytorch.data.texts import checked_text
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import JudgedPrompt

_FORMS = (
    "{prompt, response, score}, {prompt, responses, scores|ranks|best}, {prompt, chosen, rejected}, "
    "or Open Assistant's trees or messages"
)

Worths = list[tuple[str, float]]
"""(response, worth), higher is better."""


@dataclass(frozen=True)
class JudgedData:
    """What was read, in which forms, and what was left out of it."""

    prompts: list[JudgedPrompt]
    forms: dict[str, int]  # form -> rows of it
    left_out: dict[str, int]  # reason -> how many

    def described(self) -> str:
        """In words: forms, prompts and responses, and what was left out."""
        rows = ", ".join(f"{count:,} {form}" for form, count in self.forms.items())
        responses = sum(len(judged.responses) for judged in self.prompts)
        text = f"{rows} rows: {len(self.prompts):,} prompts with {responses:,} judged responses."
        return f"{text} {told(self.left_out)}".strip()


def judged_prompts(
    source: Source, *, base: Path | None = None, lang: str | None = "en"
) -> list[JudgedPrompt]:
    """The prompts of `read_judged`, with at least one response each; their worths may all tie."""
    return read_judged(source, base=base, lang=lang).prompts


def read_judged(source: Source, *, base: Path | None = None, lang: str | None = "en") -> JudgedData:
    """Reads every row of the source once; prompts are in the order of their first rows.

    lang: of Open Assistant's messages; None takes all. A response without a score (null, not a number, or an
    empty cell) is left out and counted. Raises DataError with the row's number for rows of no known form,
    lists of different lengths and worths that are no numbers, and where nothing is left.
    """
    forms: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    found: list[tuple[int, str, Worths, bool]] = []  # row, prompt, worths, is_rated
    scored: dict[str, Worths] = {}
    talks = []

    def read(row: Any, number: int) -> tuple[str, Any]:
        form = form_of(row, number)
        if form in ("tree", "message"):
            return form, row
        return form, (prompt_text(row, number), _READERS[form](row, number, left_out))

    for number, (form, one) in enumerate(each_made(source, read, base=base, is_steady=False)):
        forms[form] += 1
        if form in ("tree", "message"):
            talks.append((number, one))
            continue
        prompt, worths = one
        if form == "scored" and prompt in scored:
            scored[prompt] += worths
            continue
        if form == "scored":
            scored[prompt] = worths
        found.append((number, prompt, worths, form in ("scored", "rated")))
    for turn in first_turns(talks, lang=lang, left_out=left_out):
        found.append((turn.row, turn.prompt, [(text, -float(rank)) for text, rank in turn.replies], False))
    found.sort(key=lambda entry: entry[0])
    usable = [entry for entry in found if entry[2]]
    left_out["prompts without a score"] += len(found) - len(usable)
    if not usable:
        raise DataError(
            f"none of {forms.total():,} rows holds a response of known worth, so no judge can learn from "
            f"them or be measured on them. {told(left_out)}"
        )
    prompts = [
        JudgedPrompt(
            index, prompt, tuple(text for text, _ in worths), tuple(worth for _, worth in worths), rated
        )
        for index, (_, prompt, worths, rated) in enumerate(usable)
    ]
    return JudgedData(prompts, dict(forms), {reason: n for reason, n in left_out.items() if n})


def judged_row(judged: JudgedPrompt) -> dict[str, Any]:
    """A row that `judged_prompts` reads as the same prompt: with scores where rated, else with ranks."""
    row: dict[str, Any] = {"prompt": judged.prompt, "responses": list(judged.responses)}
    if judged.is_rated:
        return {**row, "scores": list(judged.worths)}
    order = sorted(set(judged.worths), reverse=True)
    return {**row, "ranks": [order.index(worth) for worth in judged.worths]}


def form_of(row: Any, number: int) -> str:
    """The name of a row's form. Columns that hold null are as good as absent."""
    if is_tree(row):
        return "tree"
    if is_message(row):
        return "message"
    if not isinstance(row, Mapping):
        raise DataError(f"item {number} is {type(row).__name__}; expected one of {_FORMS}")
    held = {str(name) for name, value in row.items() if value is not None}
    if "responses" in held:
        kinds = [name for name in ("scores", "ranks", "best") if name in held]
        if len(kinds) != 1:
            says = " and ".join(kinds) or "none"
            raise DataError(
                f"item {number} has responses and {says} of scores, ranks, best; give exactly one"
            )
        return {"scores": "rated", "ranks": "ranked", "best": "best of n"}[kinds[0]]
    if "chosen" in held or "rejected" in held:
        return "compared"
    if "response" in held and "score" in row:
        return "scored"
    raise DataError(f"item {number} has the columns {sorted(map(str, row))}; expected one of {_FORMS}")


def _scored(row: Mapping[str, Any], number: int, left_out: Counter[str]) -> Worths:
    return _known([_response(row.get("response"), number)], [_number(row["score"], number)], left_out)


def _rated(row: Mapping[str, Any], number: int, left_out: Counter[str]) -> Worths:
    responses, scores = _responses(row, number), _list(row, "scores", number)
    return _known(responses, [_number(score, number) for score in scores], left_out)


def _ranked(row: Mapping[str, Any], number: int, left_out: Counter[str]) -> Worths:
    responses, ranks = _responses(row, number), _list(row, "ranks", number)
    found = [_number(rank, number) for rank in ranks]
    return _known(responses, [None if rank is None else 0.0 - rank for rank in found], left_out)


def _best(row: Mapping[str, Any], number: int, left_out: Counter[str]) -> Worths:
    responses, best = _responses(row, number), row["best"]
    if isinstance(best, bool) or not isinstance(best, int) or not 0 <= best < len(responses):
        raise DataError(
            f"item {number}: best is {best!r}; it must be the index of one of its {len(responses)} "
            "responses, from 0"
        )
    return [(text, float(place == best)) for place, text in enumerate(responses)]


def _compared(row: Mapping[str, Any], number: int, left_out: Counter[str]) -> Worths:
    if is_messages(row.get("chosen")):
        _, chosen, rejected = pair_of(row, number)
        return [(chosen, 1.0), (rejected, 0.0)]
    return [(_response(row.get(name), number), worth) for name, worth in (("chosen", 1.0), ("rejected", 0.0))]


_READERS = {"scored": _scored, "rated": _rated, "ranked": _ranked, "best of n": _best, "compared": _compared}


def _known(responses: list[str], worths: list[float | None], left_out: Counter[str]) -> Worths:
    both = [(text, worth) for text, worth in zip(responses, worths, strict=True) if worth is not None]
    left_out["responses without a score"] += len(responses) - len(both)
    return both


def _responses(row: Mapping[str, Any], number: int) -> list[str]:
    given = row["responses"]
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise DataError(f"item {number}: responses is {given!r:.60}; it must be a list of at least one text")
    return [_response(text, number) for text in given]


def _list(row: Mapping[str, Any], name: str, number: int) -> Sequence[Any]:
    given, count = row[name], len(row["responses"])
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != count:
        raise DataError(
            f"item {number}: {name} is {given!r:.60}; it must be a list of {count}, one each response"
        )
    return given


def _response(text: Any, number: int) -> str:
    if not isinstance(text, str):
        raise DataError(f"item {number}: a response is {text!r:.60}; a judge can only be shown text")
    return checked_text(text, f"item {number}")


def _number(value: Any, number: int) -> float | None:
    """A finite number, also as CSV writes it; None where there is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        worth = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        worth = math.nan
    if not math.isfinite(worth):
        raise DataError(f"item {number}: {value!r:.60} is no score and no rank; give finite numbers, or null")
    return worth

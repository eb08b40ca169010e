"""The browsable list as JSON, as long as the page has room for."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from typing import Any

from markupsafe import Markup

from self_rewarding_lm_pytorch.records import Judgment, Vote
from self_rewarding_lm_pytorch.report.judge_pairs import judge_pair_rows
from self_rewarding_lm_pytorch.report.run_files import Stage
from self_rewarding_lm_pytorch.report.visible import visible
from self_rewarding_lm_pytorch.report.visits import Card, Visit, visits_of
from self_rewarding_lm_pytorch.report.votes import comparison, distribution, is_compared, reason
from self_rewarding_lm_pytorch.report.words import is_number

# Characters of a prompt or response, and of a vote (its score always stays), tried in this order; the
# last for a sample.
CUTS = ((600, 600), (600, 300), (400, 160), (240, 90), (140, 50), (120, 24), (140, 0), (80, 0))
SPARSE = (400, 160)
_OF_WORDS = 200  # characters of a reason
# So many visits tell about how large the list will be. Texts that visits share may make it this much smaller.
_FEW, _SHARED = 200, 2.0


def shorten(text: str, limit: int) -> str:
    """Head and tail (a judge's score comes last) where a text is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail]} […{len(text) - limit:,} more…] {text[len(text) - tail :]}"


def listing(stages: Sequence[Stage], most_bytes: int) -> dict[str, Any]:
    """The list's JSON with the longest texts that fit; a page too large even so shows every n-th visit.

    Where the whole texts do not fit as they are, the JSON is packed: deflated, then in base64.
    """
    names, visits = _rows(stages)
    few = visits[:: max(1, len(visits) // _FEW)]

    def is_near(cut: tuple[int, int], packed: bool) -> bool:
        size = _size(packing(packed)(encode(names, few, *cut))) * len(visits) / max(1, len(few))
        return size <= most_bytes * _SHARED

    tries = [(CUTS[0], 1, False), *((cut, 1, True) for cut in CUTS)]
    tries = [each for each in tries[:-1] if is_near(each[0], each[2])] + [tries[-1]]
    for cut, stride, packed in chain(tries, ((SPARSE, n, True) for n in count(2))):
        data = packing(packed)(encode(names, visits[::stride], *cut))
        if _size(data) <= most_bytes or stride > len(visits):
            break
    shown = len(visits[::stride])
    return {"data": data, "shown": shown, "visits": len(visits), "cut": cut, "is_packed": packed}


def _rows(stages: Sequence[Stage]) -> tuple[list[str], list[Visit]]:
    """What the list is made of, and the names that its rows' numbers stand for."""
    names, visits = list[str](), list[Visit]()
    for stage in stages:
        for name, rows_of in ((stage.name, visits_of), (f"{stage.name}: judge pairs", judge_pair_rows)):
            visits += rows_of(len(names), stage)
            names.append(name)
    return names, visits


def packing(packed: bool) -> Callable[[str], Markup]:
    """How the list's JSON stands in the page."""
    return pack if packed else escape


def pack(text: str) -> Markup:
    """Deflated (zlib) and in base64, which page_data.js unpacks."""
    return Markup(base64.b64encode(zlib.compress(text.encode(), 6)).decode())


def escape(text: str) -> Markup:
    """JSON in which no character can end the script element or begin another."""
    return Markup(re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _size(text: str) -> int:
    return len(text.encode())


def encode(stages: Sequence[str], visits: Sequence[Visit], response_limit: int, vote_limit: int) -> str:
    """Visits as JSON for the page's script: every text once, in a table; short lists instead of names.

    visit: [stage, prompt text, outcome, prompt index, visit, why text, candidates]; candidate: [text, role,
    tokens, fate text, writer text or -1] and, where judged, score, votes, reason text (or -1); vote: [text,
    score] or, where not parsed, [text, score, status[0], reason text].
    """
    texts, outcomes, known = dict[str, int](), dict[str, int](), dict[tuple[str, int], int]()

    def place(text: str, limit: int = _OF_WORDS) -> int:
        found = known.get((text, limit))
        if found is None:
            found = known[text, limit] = texts.setdefault(visible(shorten(text, limit)), len(texts))
        return found

    def vote(v: Vote) -> list[Any]:
        row = [place(v.text or distribution(v), vote_limit), score(v.score)]
        return row if v.status == "parsed" else [*row, v.status[0], place(reason(v))]

    def compared(v: Vote, numbers: Mapping[int, int]) -> list[Any]:
        row = [place(comparison(v, numbers)), score(v.score)]  # however it was read, that is no fault
        return row if v.score is not None else [*row, v.status[0], place(reason(v))]

    def card(c: Card, numbers: Mapping[int, int]) -> list[Any]:
        row = [
            place(c.text, response_limit),
            c.role,
            c.num_tokens,
            place(c.fate),
            c.writer and place(c.writer),
        ]
        row = [-1 if value == "" else value for value in row]
        if c.judgment is None:
            return row
        return [*row, *judged(c.judgment, numbers)]

    def judged(j: Judgment, numbers: Mapping[int, int]) -> list[Any]:
        votes = [compared(v, numbers) if is_compared(j) else vote(v) for v in j.votes]
        return [score(j.score), votes, place(j.reason) if j.reason else -1]

    rows = []
    for visit in visits:
        outcome = outcomes.setdefault(visible(visit.outcome), len(outcomes))
        prompt, why = place(visit.prompt, response_limit), place(visit.why, 2 * _OF_WORDS)
        numbers = {c.judgment.candidate_index: n for n, c in enumerate(visit.cards, 1) if c.judgment}
        cards = [card(each, numbers) for each in visit.cards]
        rows.append([visit.stage, prompt, outcome, *visit.place, why, cards])
    names = list(map(visible, stages))
    value = {"stages": names, "outcomes": list(outcomes), "texts": list(texts), "visits": rows}
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def score(value: float | None) -> float | None:
    """Short, but with the digits that tell close scores apart; JSON has no NaN."""
    if value is None or not is_number(value):
        return None
    if value == int(value):
        return int(value)
    return round(value, 3) if abs(value) >= 1000 else float(f"{value:.6g}")

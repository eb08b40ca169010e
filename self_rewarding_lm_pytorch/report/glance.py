"""A run at a glance: five cards of a few bars each, from what is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from self_rewarding_lm_pytorch.evaluation.card_text import KEY_METRICS, METRICS
from self_rewarding_lm_pytorch.report.lengths import COLUMN, Lengths, course_of
from self_rewarding_lm_pytorch.report.stage_rows import kind_of
from self_rewarding_lm_pytorch.report.words import duration, is_number, is_share, number, percent, show, title

MOST_BARS = 6
PARTS = ("generate", "judge", "train")
"""What a stage's time is spent on."""

_GIVEN = {"dpo": " given", "spin": " SPIN"}  # kinds whose pairs, or their chosen sides, come with the data
_BEST_FIRST = ("true_score_perfect", "true_score_mean")
_ASIDE = ("tokens", "length", "seconds", "num", "count", "previous")  # in names of what is no quality

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """A name, its value, and a bar of one or more parts, each a share of the whole width."""

    label: str
    value: str
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Tile:
    """One card: its headline is a value now and, where there is one, the value before."""

    title: str
    target: str  # the section that says more
    now: str
    before: str = ""
    note: str = ""
    bars: list[Bar] = field(default_factory=list)
    key: tuple[str, ...] = ()  # what the parts of its bars are


def quality_metric(rows: Sequence[Row]) -> str | None:
    """The evaluation's column that says most of the models' quality: the library's own, else the first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    others = [n for n in names if not n.startswith("judge_") and not set(n.split("_")) & set(_ASIDE)]
    for least in (2, 1):  # better one that shows a course
        for name in (*_BEST_FIRST, *others):
            if sum(is_number(row.get(name)) for row in rows) >= least:
                return name
    return None


def quality(rows: Sequence[Row], scores: Mapping[str, Sequence[float | None]]) -> Tile | None:
    """rows: the evaluation's. scores: of one way of scoring, by stage; used where nothing else is known."""
    name = quality_metric(rows)
    if name is not None:
        top = 5.0 if name == "true_score_mean" else 1.0 if is_share(name) else 0.0
        tile = _course(rows, name, title(name), "models", partial(show, name), top)
        more = [n for n in _BEST_FIRST if n != name and is_number(rows[-1].get(n))]
        notes = [f"{title(n)} {_from_to(rows, n, partial(show, n))}" for n in more]
        return replace(tile, note="; ".join(notes))
    means = [
        {"model": stage, "mean": sum(k) / len(k)} for stage, given in scores.items() if (k := known(given))
    ]
    if not means:
        return None
    tile = _course(means, "mean", "Judge's mean score", "scores", lambda value: f"{value:.2f}", 0.0)
    return replace(tile, note="Given by the judge that chose the pairs: no independent measure.")


def judge(cards: Sequence[Row], rows: Sequence[Row], stages: Sequence[Row]) -> Tile | None:
    """From the report cards; else from the evaluation; else how many votes came to a score."""
    name = judge_metric(cards)
    if name is not None:
        tile = _course(cards, name, "The judge", "judge", partial(measured, name), 1.0)
        more = [n for n in KEY_METRICS if n != name and is_number(cards[-1].get(n))][-2:]
        notes = [f"{METRICS[n].title.partition(',')[0]} {measured(n, cards[-1][n])}" for n in more]
        what = METRICS[name].title.partition(",")[0].capitalize()
        return replace(tile, note="; ".join([what, *notes]))
    own = [n for n in dict.fromkeys(n for row in rows for n in row) if n.startswith("judge_")]
    for column in own:
        if any(is_number(row.get(column)) for row in rows):
            tile = _course(rows, column, "The judge", "models", partial(show, column), 1.0)
            return replace(tile, note=title(column))
    parsed = [
        {"model": row.get("name", "?"), "share": y["votes_parsed"] / y["votes"]}
        for row in stages
        if (y := counts_of(row)).get("votes") and is_number(y.get("votes_parsed"))
    ]
    if not parsed:
        return None
    tile = _course(parsed, "share", "Votes with a score", "stages", percent, 1.0)
    return replace(tile, note="No report card measures how well the judge judges.")


def measured(name: str, value: float) -> str:
    """A report card's measure as it is read in passing."""
    return percent(value) if METRICS[name].kind == "share" else f"{value:.3f}"


def judge_metric(cards: Sequence[Row]) -> str | None:
    """The first key measure that the last card has."""
    return next((n for n in KEY_METRICS if cards and is_number(cards[-1].get(n))), None)


def lengths(rows: Sequence[Row], by_stage: Sequence[Lengths]) -> Tile | None:
    """Tokens per answer, of the evaluated models or else of the stages' samples."""
    course = course_of(rows, by_stage)
    if not course.rows:
        return None
    tile = _course(course.rows, COLUMN, "Tokens per answer", "lengths", lambda value: f"{value:.1f}", 0.0)
    ends = [stage.ended for stage in by_stage if stage.ended is not None]
    notes = [f"{_both(ends, percent)} of the samples ended by themselves"] if ends else []
    if course.is_by_budgets:
        tile = replace(tile, before="")
        notes.append("the stages' token limits differ and cut most answers: no change of the model")
    return replace(tile, note="; ".join(notes))


def yields(stages: Sequence[Row]) -> Tile | None:
    """Of the visits to prompts, those that gave a pair; given and SPIN pairs are shown, but not counted."""
    bars, lost = list[Bar](), dict[str, int]()
    num_asked, num_others, is_asked = 0, 0, False
    for row in stages:
        y = counts_of(row)
        num, visits = int(y.get("pairs") or number(row.get("num_pairs")) or 0), int(y.get("visits") or 0)
        if not num and not visits:
            continue
        if visits and kind_of(row) not in _GIVEN:
            num_asked, is_asked = num_asked + num, True
            value, share = f"{num:,} of {visits:,}", min(1.0, num / visits)
        else:
            num_others += num
            value, share = f"{num:,}{_GIVEN.get(kind_of(row), '')}", 1.0
        bars.append(Bar(str(row.get("name", "?")), value, (share,)))
        for reason, count in y.get("skipped", {}).items():
            lost[reason] = lost.get(reason, 0) + count
    if not bars:
        return None
    heading, num = ("Pairs from prompts", num_asked) if is_asked else ("Pairs", num_others)
    return Tile(heading, "stages", f"{num:,}", note=_lost_most(lost), bars=few(bars))


def _lost_most(lost: Mapping[str, int]) -> str:
    worst = max(lost, key=lambda reason: lost[reason], default="")
    return f"Most visits without a pair: {worst} ({lost[worst]:,})" if worst else ""


def time_spent(stages: Sequence[Row]) -> Tile | None:
    """Seconds of writing, judging and training, of the stages whose seconds are known."""
    timed = [row for row in stages if any(is_number(row.get(f"{part}_seconds")) for part in PARTS)]
    spent = [(str(row.get("name", "?")), tuple(seconds_of(row))) for row in timed]
    whole = sum(sum(each) for _, each in spent)
    if not whole:
        return None
    longest = max(sum(each) for _, each in spent)
    bars = [Bar(name, duration(sum(each)), tuple(s / longest for s in each)) for name, each in spent]
    return Tile(
        "Time spent", "stages", duration(whole), bars=few(bars), key=("writing", "judging", "training")
    )


def seconds_of(row: Row) -> list[float]:
    """Of a stage, for each of PARTS."""
    given = [row.get(f"{part}_seconds") for part in PARTS]
    return [float(value) if is_number(value) and value is not None else 0.0 for value in given]


def counts_of(row: Row) -> dict[str, Any]:
    """A stage's yield, `skipped` in it; what is no count is as absent as what is missing."""
    given = row.get("yield")
    if not isinstance(given, dict):
        return {}
    skipped = given.get("skipped")
    lost = skipped if isinstance(skipped, dict) else {}
    counts = {name: count for name, count in given.items() if is_number(count)}
    return {**counts, "skipped": {str(reason): n for reason, n in lost.items() if is_number(n)}}


def known(values: Sequence[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None and is_number(value)]


def few(bars: Sequence[Bar]) -> list[Bar]:
    """At most MOST_BARS, evenly chosen, the first and the last among them."""
    if len(bars) <= MOST_BARS:
        return list(bars)
    return [bars[round(n * (len(bars) - 1) / (MOST_BARS - 1))] for n in range(MOST_BARS)]


def _course(
    rows: Sequence[Row], name: str, heading: str, target: str, words: Callable[[Any], str], top: float
) -> Tile:
    """A metric over rows; its bars end at `top` or at the highest value."""
    drawn = [(n, row) for n, row in enumerate(rows, 1) if is_number(row.get(name))]
    highest = max(top, *(abs(row[name]) for _, row in drawn), 1e-9)
    bars = [
        Bar(str(row.get("model", n)), words(row[name]), (max(0.0, row[name]) / highest,)) for n, row in drawn
    ]
    before = bars[0].value if len(bars) > 1 else ""
    return Tile(heading, target, bars[-1].value, before, bars=few(bars))


def _from_to(rows: Sequence[Row], name: str, words: Callable[[Any], str]) -> str:
    return _both([row[name] for row in rows if is_number(row.get(name))], words, " → ")


def _both(values: Sequence[float], words: Callable[[Any], str], joint: str = " → ") -> str:
    ends = [words(values[0]), words(values[-1])]
    return ends[0] if ends[0] == ends[1] else joint.join(ends)

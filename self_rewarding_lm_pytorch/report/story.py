"""What happened, in a sentence of plain words, as far as the numbers say so."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from self_rewarding_lm_pytorch.evaluation.card_text import METRICS
from self_rewarding_lm_pytorch.report.glance import counts_of, judge_metric, known, measured, quality_metric
from self_rewarding_lm_pytorch.report.lengths import COLUMN, Lengths, course_of
from self_rewarding_lm_pytorch.report.words import counted, is_number, is_share, show, spelled, title

Row = Mapping[str, Any]
Scores = Mapping[str, Sequence[float | None]]

_SUBJECTS = {
    "true_score_perfect": "the share of perfect answers",
    "true_score_mean": "the mean true score",
    "win_rate": "the win rate",
}
_LONGER = 0.05  # relative change of the mean length from which on it is called one
_SAME = 0.01  # of a share, where nothing tells how far chance alone moves it


def story(
    rows: Sequence[Row],
    cards: Sequence[Row],
    stages: Sequence[Row],
    by_stage: Sequence[Lengths],
    scores: Scores,
    truths: Scores,
) -> str:
    """What the numbers do not tell is left out; empty where they tell nothing.

    rows: the evaluation's. cards: the judge's. stages: the summary's. scores: the judge's, by stage; not
    those of a judge that compares, whose mean is one half by construction.
    truths: the true scores of the stored samples, by model.
    """
    num_rounds = sum(bool(counts_of(row).get("pairs")) for row in stages if not row.get("is_open"))
    clauses = [
        quality_words(rows, truths, num_rounds) or scores_words(scores),
        judge_words(cards),
        length_words(rows, by_stage),
    ]
    told = "; ".join(filter(None, clauses))
    return f"{told[0].upper()}{told[1:]}." if told else ""


def quality_words(rows: Sequence[Row], truths: Scores, num_rounds: int) -> str:
    """How the models' quality went from the first to the last."""
    name = quality_metric(rows)
    drawn = [row for row in rows if name and is_number(row.get(name))]
    if name is None or len(drawn) < 2:
        return ""
    first, last = float(drawn[0][name]), float(drawn[-1][name])
    subject = _SUBJECTS.get(name) or f"{title(name)[0].lower()}{title(name)[1:]}"
    chance = _by_chance(name, drawn[0], drawn[-1], truths)
    is_in_rounds = len(drawn) == len(rows) == num_rounds + 1
    over = f"over {spelled(num_rounds)} round{'' if num_rounds == 1 else 's'}" if is_in_rounds else ""
    over = over or f"from {drawn[0].get('model', 'the first model')} to {drawn[-1].get('model', 'the last')}"
    told = f"{_moved(subject, first, last, chance, partial(show, name))} {over}"
    best = max(drawn, key=lambda row: float(row[name]))
    if name in _SUBJECTS and float(best[name]) > max(first, last) + chance:
        told += f", with {show(name, float(best[name]))} at {best.get('model', 'its best')} in between"
    return told


def scores_words(scores: Scores) -> str:
    """What the run's judge gave, where nothing independent was measured. scores: of one way of scoring."""
    given = [(stage, k) for stage, values in scores.items() if len(k := known(values)) > 1]
    if not given:
        return ""
    means = [statistics.fmean(values) for _, values in given]
    if len(given) == 1:
        num = counted(len(given[0][1]), "judged answer")
        return f"the {num} of {given[0][0]} scored {means[0]:.2f} on average"
    chance = 2 * math.hypot(_error(given[0][1]), _error(given[-1][1]))
    told = _moved("the judge's mean score", means[0], means[-1], chance, lambda value: f"{value:.2f}")
    return f"{told} between {given[0][0]} and {given[-1][0]}"


def judge_words(cards: Sequence[Row]) -> str:
    """How the judge went, by its first key measure."""
    name = judge_metric(cards)
    drawn = [row for row in cards if name and is_number(row.get(name))]
    if name is None or len(drawn) < 2:
        return ""
    first, last = float(drawn[0][name]), float(drawn[-1][name])
    what = METRICS[name].title.partition(",")[0]
    values = f"{what} {measured(name, first)} to {measured(name, last)}"
    if _is_within(last, drawn[0], name) or _is_within(first, drawn[-1], name):
        return (
            f"the judge stayed as good ({values})"
            if first != last
            else f"the judge stayed as good ({what} {measured(name, last)})"
        )
    return f"the judge became {'better' if last > first else 'worse'} ({values})"


def length_words(rows: Sequence[Row], by_stage: Sequence[Lengths]) -> str:
    """How the answers' length went; nothing where it is only the plan's budgets that changed."""
    course = course_of(rows, by_stage)
    means = [float(row[COLUMN]) for row in course.rows]
    if len(means) < 2 or course.is_by_budgets:
        return ""
    first, last = means[0], means[-1]
    if abs(last - first) < _LONGER * first:
        return f"answers kept their length ({last:.1f} tokens)"
    return f"answers became {'longer' if last > first else 'shorter'} ({first:.1f} to {last:.1f} tokens)"


def _moved(subject: str, first: float, last: float, chance: float, words: Any) -> str:
    """chance: how far the value may have moved without anything having happened."""
    if abs(last - first) <= chance:
        return f"{subject} hardly moved ({words(first)} to {words(last)})"
    return f"{subject} {'rose' if last > first else 'fell'} from {words(first)} to {words(last)}"


def _by_chance(name: str, first: Row, last: Row, truths: Scores) -> float:
    """Two standard errors of the difference where the samples' true scores are stored."""
    both = [known(truths.get(str(row.get("model")), ())) for row in (first, last)]
    if name == "true_score_mean" and all(len(values) > 1 for values in both):
        return 2 * math.hypot(*map(_error, both))
    if name == "true_score_perfect" and all(both):
        errors = [p * (1 - p) / len(v) for p, v in zip((first[name], last[name]), both, strict=True)]
        return 2 * math.sqrt(max(0.0, sum(errors)))
    return _SAME * (1.0 if is_share(name) else max(abs(first[name]), abs(last[name])))


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def _is_within(value: float, row: Row, name: str) -> bool:
    """Whether a value lies in another's interval, or next to it where there is none."""
    every = row.get("intervals")
    ends = every.get(name) if isinstance(every, dict) else None
    if isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends)):
        return bool(min(ends[0], row[name]) <= value <= max(ends[1], row[name]))
    return bool(abs(value - row[name]) <= _SAME)

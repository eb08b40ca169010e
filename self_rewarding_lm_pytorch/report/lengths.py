"""How long the responses of each stage are, and how many of them came to their end."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from self_rewarding_lm_pytorch.records import Candidate
from self_rewarding_lm_pytorch.report.run_files import Stage
from self_rewarding_lm_pytorch.report.words import is_number

COLUMN = "mean_response_tokens"
"""The evaluation's column of lengths."""


@dataclass(frozen=True)
class Lengths:
    """Of one stage, in tokens, the end-of-sequence token included; None where there is nothing to count."""

    stage: str
    tokens: list[int]  # of each sampled response
    mean: float | None
    median: float | None
    highest: float | None  # of the shorter 90 %
    ended: float | None  # share of the sampled responses that wrote an end-of-sequence token
    chosen: float | None  # mean over the pairs
    rejected: float | None
    answers: float | None = None  # mean of what the model itself wrote
    budget: int | None = None  # the most tokens that the plan leaves an answer
    cut: float | None = None  # share of the model's own answers that ended there


@dataclass(frozen=True)
class Course:
    """Tokens per answer, from row to row in COLUMN."""

    rows: list[Mapping[str, Any]]
    is_by_budgets: bool  # its ends differ in their budgets, which cut most answers: no change of the model


def lengths_of(stages: Sequence[Stage]) -> list[Lengths]:
    """Of the stages that sampled responses or have pairs."""
    return [_lengths(stage) for stage in stages if stage.candidates or stage.pairs]


def course_of(rows: Sequence[Mapping[str, Any]], by_stage: Sequence[Lengths]) -> Course:
    """Of the evaluated models, or of the stages' own answers where only those show a course."""
    evaluated = [row for row in rows if is_number(row.get(COLUMN))]
    told = [each for each in by_stage if each.answers]
    if len(evaluated) > 1 or (evaluated and len(told) < 2):
        return Course(evaluated, False)
    return Course([{"model": each.stage, COLUMN: each.answers} for each in told], _is_by_budgets(told))


def _is_by_budgets(told: Sequence[Lengths]) -> bool:
    ends = [told[0], told[-1]] if told else []
    return len({each.budget for each in ends}) > 1 and any((each.cut or 0) > 0.5 for each in ends)


def _lengths(stage: Stage) -> Lengths:
    sampled, budget = _once(stage.candidates), _budget(stage)
    tokens = sorted(len(each.ids) for each in sampled)
    ended = [each.finish_reason == "eos" for each in sampled]
    cut = [each.finish_reason == "length" for each in sampled]
    own: Sequence[int] = tokens
    if not sampled and stage.plan.get("kind") == "spin":  # there the chosen side is the data set's
        own = [len(pair.rejected_ids) for pair in stage.pairs]
        cut = [budget is not None and size >= budget for size in own]
    return Lengths(
        stage.name,
        tokens,
        _mean(tokens),
        statistics.median(tokens) if tokens else None,
        tokens[(9 * len(tokens) - 1) // 10] if tokens else None,
        _mean(ended),
        _mean([len(pair.chosen_ids) for pair in stage.pairs]),
        _mean([len(pair.rejected_ids) for pair in stage.pairs]),
        _mean(own),
        budget,
        _mean(cut),
    )


def _budget(stage: Stage) -> int | None:
    """SPIN calls the writer of answers the opponent."""
    for name in ("candidates", "opponent"):
        settings = stage.plan.get(name)
        limit = settings.get("max_new_tokens") if isinstance(settings, dict) else None
        if isinstance(limit, int):
            return limit
    return None


def _once(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without those that a further visit to a prompt took up again."""
    return list({(c.prompt_index, c.key, c.ids, c.policy, c.index): c for c in candidates}.values())


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

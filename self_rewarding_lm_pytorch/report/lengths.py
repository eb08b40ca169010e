"""How long the responses of each stage are, and how many of them came to their end."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from self_rewarding_lm_pytorch.records import Candidate
from self_rewarding_lm_pytorch.report.run_files import Stage


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


def lengths_of(stages: Sequence[Stage]) -> list[Lengths]:
    """Of the stages that sampled responses or have pairs."""
    return [_lengths(stage) for stage in stages if stage.candidates or stage.pairs]


def _lengths(stage: Stage) -> Lengths:
    sampled = _once(stage.candidates)
    tokens = sorted(len(each.ids) for each in sampled)
    ended = [each.finish_reason == "eos" for each in sampled]
    return Lengths(
        stage.name,
        tokens,
        _mean(tokens),
        statistics.median(tokens) if tokens else None,
        tokens[(9 * len(tokens) - 1) // 10] if tokens else None,
        _mean(ended),
        _mean([len(pair.chosen_ids) for pair in stage.pairs]),
        _mean([len(pair.rejected_ids) for pair in stage.pairs]),
    )


def _once(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without those that a further visit to a prompt took up again."""
    return list({(c.prompt_index, c.key, c.ids, c.policy, c.index): c for c in candidates}.values())


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

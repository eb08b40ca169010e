"""Judgments of responses in a file, without a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from self_rewarding_lm_pytorch.data.readers import each_row, file_hashes
from self_rewarding_lm_pytorch.judges.answers_only import answers_only
from self_rewarding_lm_pytorch.judges.base import TOO_LONG, Judge
from self_rewarding_lm_pytorch.parts.judges import Seat
from self_rewarding_lm_pytorch.parts.row_file import Row, RowFile
from self_rewarding_lm_pytorch.parts.rows import (
    Answer,
    candidate_record,
    prompt_record,
    read_answers,
    written,
)
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt, Vote
from self_rewarding_lm_pytorch.text import Reasoning, reasoning_of

PROMPTS_AT_ONCE = 64
"""Whose responses are judged between two saves, as a run's shards are by default."""

Shown = tuple[Prompt, Candidate]


@dataclass(frozen=True)
class Judged:
    """What came of it, over all rows of the file."""

    out: Path
    responses: int
    scored: int
    unscored: dict[str, int]  # by reason
    votes: dict[str, int]  # by status
    mean_score: float | None

    def as_dict(self) -> dict[str, Any]:
        return {"command": "judge", **vars(self), "out": str(self.out)}

    def lines(self) -> list[str]:
        """In words, for people."""
        rows: list[tuple[str, int]] = [("responses", self.responses), ("  with a score", self.scored)]
        rows += [(f"  no score: {reason}", count) for reason, count in self.unscored.items()]
        rows += [(f"votes {status}", count) for status, count in self.votes.items()]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {count:>9,}" for name, count in rows]
        mean = "-" if self.mean_score is None else f"{self.mean_score:.3f}"
        return [*lines, f"{'mean score':<{width}}  {mean:>9}"]


def judge(
    seat: Seat,
    candidates: str,
    out: Path,
    reporter: Reporter,
    *,
    limit: int | None = None,
    reasoning: Reasoning | None = None,
) -> Judged:
    """Writes a judgment of each response to `out`; goes on where an earlier call was cut off.

    seat: who judges. candidates: a file of prompts and responses. reasoning: marks of what the judge is not
    shown of responses; None: as the judging model's own plan says, as in its stages. Raises DataError for
    rows that cannot be used, ConfigError for a file made by other settings.
    """
    answers = read_answers(candidates, limit)
    reasoning = reasoning or reasoning_of(seat.codec)
    given = {
        "candidates": sorted(file_hashes(candidates).values()),
        "limit": limit,
        "reasoning": None if reasoning is None else [reasoning.begin, reasoning.end],
    }
    file = RowFile(out, {"command": "judge", **seat.identity, **given})
    shards = _shards(answers)
    ends = [sum(map(len, shards[:number])) for number in range(1, len(shards) + 1)]
    kept = file.begin(ends)
    if not file.is_finished:
        _make(seat, answers, shards, kept, file, reporter, reasoning)
        file.finish()
    return summary(out)


def _shards(answers: Sequence[Answer]) -> list[list[Answer]]:
    visits = [list(own) for _, own in groupby(answers, key=lambda answer: answer.prompt_index)]
    starts = range(0, len(visits), PROMPTS_AT_ONCE)
    return [[each for own in visits[start : start + PROMPTS_AT_ONCE] for each in own] for start in starts]


def _make(
    seat: Seat,
    answers: Sequence[Answer],
    shards: Sequence[Sequence[Answer]],
    kept: int,
    file: RowFile,
    reporter: Reporter,
    reasoning: Reasoning | None,
) -> None:
    visits = Counter(answer.prompt_index for answer in answers)
    shown = [_shown(answer, seat, reasoning) for answer in answers]
    judge, notes = seat.judge(_answers(shown, reasoning), num_candidates=max(visits.values()))
    judge = answers_only(judge, None, reasoning)
    for note in (*notes, *_reasoning_notes(answers, reasoning)):
        reporter.say(note)
    if kept:
        reporter.say(f"{kept:,} responses are judged already, in {file.partial}")
    prompts = written([answer.prompt for answer in answers])
    unit = "votes" if judge.num_votes else "scores"
    start = 0
    with reporter.phase(unit, (len(answers) - kept) * max(1, judge.num_votes), unit) as phase:
        for shard in shards:
            end = start + len(shard)
            if start >= kept:
                found = _judged(judge, shown[start:end], phase.advance)
                file.add([_row(*each) for each in zip(shard, prompts[start:end], found, strict=True)])
            start = end


def _judged(judge: Judge, shown: Sequence[Shown], advance: Any) -> list[Judgment]:
    return judge.judge(shown, on_progress=lambda done, _: advance(done))


def _answers(shown: Sequence[Shown], reasoning: Reasoning | None) -> Sequence[Shown]:
    """What is judged of them, without the reasoning before it."""
    if reasoning is None:
        return shown
    return [(prompt, replace(own, text=reasoning.answer(own.text) or "")) for prompt, own in shown]


def _reasoning_notes(answers: Sequence[Answer], reasoning: Reasoning | None) -> list[str]:
    usual = Reasoning()
    num = sum(usual.end in answer.response for answer in answers)
    if reasoning is not None or not num:
        return []
    return [
        f"{num:,} of {len(answers):,} responses hold {usual.end}, and the judge is shown what stands before "
        f"it too; --reasoning '{usual.begin}' '{usual.end}' leaves that out"
    ]


def _shown(answer: Answer, seat: Seat, reasoning: Reasoning | None) -> Shown:
    prompt = prompt_record(answer.prompt_index, answer.prompt, seat.codec, reasoning)
    return prompt, candidate_record(answer)


def _row(answer: Answer, prompt: Any, judgment: Judgment) -> Row:
    row: Row = {
        "prompt_index": answer.prompt_index,
        "candidate": answer.candidate,
        "prompt": prompt,
        "response": answer.response,
        "score": judgment.score,
        "reason": judgment.reason,
        "votes": [vote_row(vote) for vote in judgment.votes],
        "finish_reason": answer.finish_reason,
        "tokens": answer.tokens,
    }
    return row if answer.ids is None else {**row, "ids": list(answer.ids)}


def vote_row(vote: Vote) -> Row:
    return {
        "index": vote.index,
        "text": vote.text,
        "score": vote.score,
        "status": vote.status,
        "reason": vote.reason,
        "finish_reason": vote.finish_reason,
        "probabilities": list(vote.probabilities),
    }


def summary(out: Path) -> Judged:
    """Counts of a finished file."""
    scores: list[float] = []
    reasons: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    number = 0
    for row in each_row(out):
        number += 1
        statuses.update(vote["status"] for vote in row["votes"])
        if row["score"] is None:
            reasons[short_reason(row)] += 1
        else:
            scores.append(row["score"])
    mean = fmean(scores) if scores else None
    return Judged(out, number, len(scores), dict(reasons.most_common()), dict(sorted(statuses.items())), mean)


def short_reason(row: Mapping[str, Any]) -> str:
    """Why a row has no score, without the numbers that tell rows apart."""
    reason = str(row.get("reason") or "none said")
    return "judge prompt over its limit" if reason.startswith(TOO_LONG) else reason

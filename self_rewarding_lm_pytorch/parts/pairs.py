"""Preference pairs of judged responses, without a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.parts.row_file import Row, check_ending, write_rows
from self_rewarding_lm_pytorch.parts.rows import (
    Answer,
    candidate_record,
    messages_of,
    prompt_record,
    read_answers,
    said,
)
from self_rewarding_lm_pytorch.preferences.pairing import PairingRule
from self_rewarding_lm_pytorch.preferences.shards import Rule
from self_rewarding_lm_pytorch.preferences.yields import Yield
from self_rewarding_lm_pytorch.records import Judgment, PreferencePair, Skipped, Vote


@dataclass(frozen=True)
class Paired:
    """What came of it."""

    out: Path
    skipped_file: Path
    counts: Yield
    lengths: str  # what lengths were counted in: tokens or characters

    def as_dict(self) -> dict[str, Any]:
        return {
            "command": "pairs",
            "out": str(self.out),
            "skipped_file": str(self.skipped_file),
            "yield": self.counts.as_dict(),
            "lengths": self.lengths,
        }


def pairs(judgments: str, rule: Rule, out: Path, *, limit: int | None = None) -> Paired:
    """Writes a pair for each prompt that has one to `out`, and why the others have none beside it.

    judgments: what `judge` wrote, or any rows with prompt, response and score. out: prompt, chosen, rejected
    and both scores in each row, written anew. Raises DataError where no pair comes out, with the counts.
    """
    check_ending(out)
    if out.exists():
        what = "what is read" if out.resolve() == Path(judgments).resolve() else "there already"
        raise ConfigError(
            f"--out {out} is {what}, and would be written over; name another file, or remove it"
        )
    answers = read_answers(judgments, limit)
    if isinstance(rule, PairingRule) and rule.needs_end:
        _check_endings(judgments, answers)
    judged = [_judgment(answer, judgments) for answer in answers]
    counts, rows, skipped = Yield(), [], []
    are_texts = all(isinstance(answer.prompt, str) for answer in answers)
    visits = groupby(zip(answers, judged, strict=True), key=lambda each: each[0].prompt_index)
    for index, visit in visits:
        own, votes = zip(*visit, strict=True)
        counts.prompts += 1
        counts.add_judgments(votes)
        prompt = prompt_record(index, own[0].prompt, None)
        outcome = _writable(rule.pair(prompt, 0, [candidate_record(answer) for answer in own], votes))
        counts.add_outcome(outcome)
        if isinstance(outcome, Skipped):
            skipped.append({"prompt_index": index, "reason": outcome.reason, "prompt": said(own[0].prompt)})
        else:
            rows.append(_row(outcome, own, are_texts))
    skipped_file = out.with_name(f"{out.name}.skipped.json")
    write_json(skipped_file, {"counts": dict(counts.skipped), "prompts": skipped})
    if not rows:
        lines = "\n    ".join([*counts.lines(), *_unscored(judged)])
        raise DataError(
            f"no preference pair came out of {judgments}, so {out} is not written. Where they were lost "
            f"(each prompt's reason is in {skipped_file}):\n    {lines}"
        )
    write_rows(out, rows)
    is_known = all(answer.ids is not None or answer.tokens is not None for answer in answers)
    return Paired(out, skipped_file, counts, "tokens" if is_known else "characters")


def _writable(outcome: PreferencePair | Skipped) -> PreferencePair | Skipped:
    """Models write what no reader of pairs takes; a run trains on it by its tokens, a file cannot."""
    if isinstance(outcome, PreferencePair):
        if not (outcome.chosen and outcome.rejected):
            return Skipped(
                outcome.prompt_index, outcome.visit, "an empty response, which data files cannot have"
            )
        if "\0" in outcome.chosen + outcome.rejected:
            return Skipped(outcome.prompt_index, outcome.visit, "a NUL character in a response")
    return outcome


def _unscored(judged: Sequence[Judgment]) -> list[str]:
    reasons = Counter(judgment.reason for judgment in judged if judgment.score is None)
    return [f"no score, {count:,} times: {reason}" for reason, count in reasons.most_common(5)]


def _check_endings(source: str, answers: Sequence[Answer]) -> None:
    unknown = sum(answer.finish_reason is None for answer in answers)
    if unknown:
        raise DataError(
            f"{source}: {unknown:,} responses do not say how they ended (finish_reason), so unfinished ones "
            "cannot be told and dropped; leave --unfinished out, or add that column"
        )


def _judgment(answer: Answer, source: str) -> Judgment:
    row = answer.row if isinstance(answer.row, Mapping) else {}
    where = f"{source}: candidate {answer.candidate} of prompt {answer.prompt_index}"
    if "score" not in row:
        raise DataError(
            f"{where} has no score, among the columns {sorted(map(str, row))}; judge it first "
            "(self-rewarding-lm judge), or give each row a score, null where there is none"
        )
    score = row["score"]
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    if score is not None and not (is_number and math.isfinite(score)):
        raise DataError(f"{where} has the score {score!r:.60}; it must be a finite number, or null for none")
    votes = tuple(_vote(vote, number, where) for number, vote in enumerate(row.get("votes") or ()))
    reason = str(row.get("reason") or ("" if score is not None else "none said"))
    known = None if score is None else float(score)
    return Judgment(answer.prompt_index, 0, answer.candidate, known, votes, reason)


def _vote(vote: Any, number: int, where: str) -> Vote:
    status = vote.get("status") if isinstance(vote, Mapping) else None
    if status not in ("parsed", "forced", "expected", "unparsed"):
        raise DataError(
            f"{where}: vote {number} has the status {status!r:.40}; known: parsed, forced, expected, unparsed"
        )
    return Vote(number, str(vote.get("text", "")), vote.get("score"), status)


def _row(pair: PreferencePair, answers: Sequence[Answer], are_texts: bool) -> Row:
    prompt = answers[0].prompt
    return {
        "prompt": prompt if are_texts else messages_of(prompt),
        "chosen": _side(pair.chosen, are_texts),
        "rejected": _side(pair.rejected, are_texts),
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
        "prompt_index": pair.prompt_index,
        "chosen_candidate": pair.chosen_index,
        "rejected_candidate": pair.rejected_index,
    }


def _side(response: str, are_texts: bool) -> Any:
    """Beside a prompt of messages the answers are messages too, as chat data sets have them."""
    return response if are_texts else [{"role": "assistant", "content": response}]

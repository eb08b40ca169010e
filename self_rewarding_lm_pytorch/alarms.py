"""Rules that say a run has stopped being worth its electricity: numbers in, plain words out.

Every rule is silent below a number of things counted, and wherever its value cannot be told. Thresholds are
ours unless their row says otherwise; a plan sets its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from self_rewarding_lm_pytorch.errors import TrainingError

Then = Literal["warn", "stop"]
Unit = Literal["shard", "step", "stage"]


class StopRun(TrainingError):
    """An alarm, or the guard of the report card, ends a run that is not worth going on with."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that was given; a line of alarms.jsonl."""

    kind: str
    stage: str  # its folder, NN-NAME
    unit: Unit  # what `at` counts
    at: int  # shards and stages from 1, finished optimizer steps
    value: float | None  # None: not finite, or it cannot be told any more
    threshold: float | None
    then: Then
    text: str  # what was seen, why it matters, what to try


@dataclass(frozen=True, slots=True)
class Limit:
    """What a plan says of an alarm that is on."""

    threshold: float
    then: Then


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is known of a stage so far; zero counts and None leave a rule silent."""

    votes: int = 0  # forced ones not counted
    votes_parsed: int = 0
    compared: int = 0  # visits with at least two scored candidates
    tied: int = 0  # those whose scores are all equal
    scores: int = 0
    top_score: float | None = None  # the commonest, and how often it was given
    top_count: int = 0
    candidates: int = 0
    tokens: int = 0  # of all candidates
    cut_off: int = 0  # candidates whose token budget ran out
    grouped: int = 0  # candidates that have another of the same visit beside them
    repeated: int = 0  # those equal to another
    visits: int = 0
    pairs: int = 0
    asked: int | None = None  # pairs; None: each prompt is visited once
    visits_per_pair: int = 1  # a search's bound
    former: str = ""  # the stage that candidates' length is compared with
    former_tokens: float | None = None  # its candidates' mean
    first_logprob: float | None = None  # of chosen, nats per token, at the training's first logged step
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A rule's value, of how many things, and the same in words."""

    value: float
    num: int
    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of alarm."""

    measure: Callable[[Numbers], Seen | None]  # None: it cannot be told
    is_floor: bool  # speaks below its threshold; otherwise above
    threshold: float
    at_least: int  # of what `measure` counts, below which it is silent
    lowest: float  # threshold that a plan may set
    highest: float
    advice: str  # why it matters and what to try
    then: Then = "warn"

    def speaks(self, seen: Seen, threshold: float) -> bool:
        is_over = seen.value < threshold if self.is_floor else seen.value > threshold
        return is_over and seen.num >= self.at_least


def _parse_rate(n: Numbers) -> Seen | None:
    if not n.votes:
        return None
    share = n.votes_parsed / n.votes
    return Seen(share, n.votes, f"{n.votes_parsed:,} of {n.votes:,} votes ({share:.1%}) hold a score")


def _tie_rate(n: Numbers) -> Seen | None:
    if not n.compared:
        return None
    share = n.tied / n.compared
    text = f"at {n.tied:,} of {n.compared:,} visits ({share:.1%}) all candidates have the same score"
    return Seen(share, n.compared, text)


def _score_collapse(n: Numbers) -> Seen | None:
    if not n.scores or n.top_score is None:
        return None
    share = n.top_count / n.scores
    return Seen(share, n.scores, f"{n.top_count:,} of {n.scores:,} scores ({share:.1%}) are {n.top_score:g}")


def _pair_yield(n: Numbers) -> Seen | None:
    if not n.visits:
        return None
    found = f"{n.pairs:,} pairs were found in {n.visits:,} visits to prompts"
    if n.asked is None:
        share = n.pairs / n.visits
        return Seen(share, n.visits, f"{found} ({share:.1%})")
    # What the search comes to at this rate when it has made all the visits it may make.
    growth = max(1.0, n.asked * n.visits_per_pair / n.visits)
    share = min(1.0, n.pairs * growth / n.asked)
    return Seen(share, n.visits, f"{found}, which leads to {share:.1%} of the {n.asked:,} asked for")


def _chosen_logprob(n: Numbers) -> Seen | None:
    if n.first_logprob is None or n.logprob is None:
        return None
    fall = n.first_logprob - n.logprob
    text = (
        f"the log-probability of chosen responses fell by {fall:.3g} nats per token, from "
        f"{n.first_logprob:.3f} at the first logged step to {n.logprob:.3f}"
    )
    return Seen(fall, 1, text)


def _length_growth(n: Numbers) -> Seen | None:
    if not n.candidates or not n.former_tokens:
        return None
    mean = n.tokens / n.candidates
    growth = mean / n.former_tokens
    text = (
        f"{n.candidates:,} candidates are {mean:.1f} tokens long on average, {growth:.2f} times the "
        f"{n.former_tokens:.1f} of {n.former}"
    )
    return Seen(growth, n.candidates, text)


def _never_ends(n: Numbers) -> Seen | None:
    if not n.candidates:
        return None
    share = n.cut_off / n.candidates
    text = (
        f"{n.cut_off:,} of {n.candidates:,} candidates ({share:.1%}) ran out of tokens without writing "
        "an end of sequence"
    )
    return Seen(share, n.candidates, text)


def _duplicates(n: Numbers) -> Seen | None:
    if not n.grouped:
        return None
    share = n.repeated / n.grouped
    found = f"{n.repeated:,} of {n.grouped:,} candidates ({share:.1%})"
    return Seen(share, n.grouped, f"{found} equal another of the same prompt")


RULES: dict[str, Rule] = {
    "parse_rate": Rule(
        _parse_rate, True, 0.5, 64, 0.0, 1.0,
        "Votes without a score cost as much and say nothing. Look at some on the report page; allow more "
        "tokens (judge.max_new_tokens), take a template that the judge follows, train it on judge examples, "
        "or read expected scores (judge.mode: expected)",
    ),
    "tie_rate": Rule(
        # Half the pairs of the demo's fourth model are truly equal, and it still learns from the others.
        _tie_rate, False, 0.8, 32, 0.0, 1.0,
        "Equal scores make no pair. Take more votes, expected scores (judge.mode: expected), a finer scale, "
        "more candidates or a higher temperature; or the answers have become equally good, and it is enough",
    ),
    "score_collapse": Rule(
        _score_collapse, False, 0.95, 64, 0.0, 1.0,
        "A judge that gives everything one score tells nothing apart. Look at its votes: it may copy the "
        "example score of its template; take another template or judge, expected scores, or mix judge "
        "examples into the training before",
    ),
    "pair_yield": Rule(
        _pair_yield, True, 0.25, 32, 0.0, 1.0,
        "Training would see far fewer pairs than planned. The yield table says at which step the others were "
        "lost; mend that step, or ask for fewer pairs (num_pairs)",
    ),
    "chosen_logprob": Rule(
        _chosen_logprob, False, 1.0, 1, 0.0, float("inf"),
        "A preference loss may raise the margin by making both sides unlikely, and the model then writes "
        "neither. Lower the learning rate, raise beta, or add the chosen responses' likelihood (nll_weight)",
    ),
    "length_growth": Rule(
        # The paper's own answers grew 1.42 and 1.64 times (2401.10020: 1,092, 1,552, 2,552 characters).
        _length_growth, False, 2.0, 64, 1.0, float("inf"),
        "Judges prefer longer answers, so models learn length in the place of quality. Set pairing.rho, take "
        "a loss that is normalised by length or desensitised to it (ld_alpha), and compare win rates that "
        "are controlled for length",
    ),
    "never_ends": Rule(
        _never_ends, False, 0.5, 64, 0.0, 1.0,
        "Answers that are cut off teach the model not to end. Look whether the training data end in the "
        "tokenizer's end-of-sequence token and whether the template is the model's own; allow more tokens "
        "(candidates.max_new_tokens), or pair finished answers only (pairing.unfinished: drop)",
    ),
    "duplicates": Rule(
        _duplicates, False, 0.5, 64, 0.0, 1.0,
        "Equal candidates make no pair and are judged in vain. Raise candidates.temperature or top_p; where "
        "a model has come to write one answer only, lower the learning rate",
    ),
}  # fmt: skip
"""Kind -> rule. Beside these, `not_finite` always stops, and `judge_agreement` is the report card's guard."""


def alarm_of(kind: str, numbers: Numbers, limit: Limit, *, stage: str, unit: Unit, at: int) -> Alarm | None:
    """The alarm that these numbers give; None where they give none."""
    rule = RULES[kind]
    seen = rule.measure(numbers)
    if seen is None or not rule.speaks(seen, limit.threshold):
        return None
    side = "below" if rule.is_floor else "above"
    text = f"{seen.text}; that is {side} the threshold of {limit.threshold:g}. {rule.advice}."
    value = seen.value if math.isfinite(seen.value) else None
    return Alarm(kind, stage, unit, at, value, limit.threshold, limit.then, text)


def line_of(alarm: Alarm) -> str:
    """As a terminal shows it."""
    return f"alarm {alarm.kind} in {alarm.stage}, {alarm.unit} {alarm.at:,}: {alarm.text}"


def stop_text(alarm: Alarm) -> str:
    """What a run says that this alarm stops."""
    return (
        f"{line_of(alarm)} The run was stopped there (alarms.{alarm.kind}.then is stop); all it did is kept. "
        f"To go on from here, run it again with --set alarms.{alarm.kind}=off, or with another threshold; or "
        "change the plan and begin anew with --fresh."
    )

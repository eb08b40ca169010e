"""A judge's report card: what it gets right on responses that people have judged, and where it leans."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.evaluation.agreement import agreement
from self_rewarding_lm_pytorch.evaluation.bootstrap import (
    NUM_DRAWS,
    Estimate,
    Metric,
    measured,
    ratio,
    resamples,
)
from self_rewarding_lm_pytorch.evaluation.calibration import (
    Bin,
    Scale,
    entropies,
    histogram,
    probability_errors,
    rating_errors,
    vote_figures,
)
from self_rewarding_lm_pytorch.evaluation.card_text import METRICS, card_lines
from self_rewarding_lm_pytorch.evaluation.comparisons import comparisons
from self_rewarding_lm_pytorch.evaluation.probes import length_correlation, place_figures
from self_rewarding_lm_pytorch.evaluation.shown import Shown
from self_rewarding_lm_pytorch.evaluation.twins import NUM_TWINS, Pad, judged_twins
from self_rewarding_lm_pytorch.judges.base import TOO_LONG, Judge, OnProgress
from self_rewarding_lm_pytorch.records import JudgedPrompt, Judgment
from self_rewarding_lm_pytorch.text import Codec

_DIGITS = 6
_MOST_REASONS = 8
_OVER = "the judge prompt is longer than its limit"  # each says by how much


@dataclass(frozen=True)
class ReportCard:
    """Metrics by name (`card_text.METRICS` says what each is), and what they are taken over."""

    metrics: dict[str, Metric]
    num_prompts: int
    num_ordered: int  # prompts with two responses of different worth
    num_responses: int
    histogram: list[Bin]  # {score, num}: how often each score was given
    reliability: list[Bin]  # {score, num, mean_score, mean_rating} of rated responses
    unscored: dict[str, int]  # why responses have no score, and how many
    data: str  # a digest of the judged prompts: cards of different data are not compared

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: None where a number cannot be told, never NaN."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded

    def lines(self) -> list[str]:
        """The card for a terminal."""
        return card_lines(self.as_dict())


def report_card(
    judge: Judge,
    judged: Sequence[JudgedPrompt],
    codec: Codec | None = None,
    *,
    pairwise: bool = False,
    scale: Scale | None = None,
    num_probes: int = NUM_TWINS,
    pad: Pad = None,
    seed: Sequence[int | str] = (0,),
    draws: int = NUM_DRAWS,
    on_progress: OnProgress | None = None,
) -> ReportCard:
    """Has the judge score every response, and compares its scores with the people's worths.

    codec: what the judge's policy reads; None suits a judge of texts, such as a function.
    pairwise: the judge compares the responses of a visit; all of a prompt's are one.
    scale: the judge's points; None: they are not the people's, and are only ordered (so in comparisons).
    num_probes: responses whose padded twins are judged too, at most; 0 asks for none. pad: what pads them.
    seed: the address of the resampled prompts and of the choice of twins. draws: resamples for the intervals.
    Raises DataError where there is nothing to judge.
    """
    if not judged:
        raise DataError("the judged set is empty, so a judge cannot be measured on it; give one with rows")
    shown = Shown(judged, codec)
    flat = judge.judge(shown.everything(), on_progress=on_progress)
    judgments = shown.by_prompt(flat)
    scores = [[judgment.score for judgment in own] for own in judgments]
    numbers = [[score for score in own if score is not None] for own in scores]
    own_scale = _scale_of(numbers, scale, pairwise=pairwise)
    estimates = {
        **agreement(scores, judged, top_score=None if scale is None or pairwise else scale.high),
        **vote_figures(judgments, repeated=not pairwise),
        **entropies(numbers, own_scale),
        "length_spearman": length_correlation(scores, shown.lengths(), judged),
        **judged_twins(judge, shown, scores, limit=num_probes, pad=pad, pairwise=pairwise, seed=seed),
    }
    reliability: list[Bin] = []
    if pairwise:
        compared = [comparisons(own, prompt) for own, prompt in zip(judgments, judged, strict=True)]
        estimates |= {**probability_errors(compared), **place_figures(compared)}
    else:  # the mean of comparisons is one half, whatever is compared
        estimates["mean_score"] = ratio([sum(own) for own in numbers], [len(own) for own in numbers])
    if not pairwise and scale is not None:
        errors, reliability = rating_errors(scores, judged, scale)
        estimates |= errors
    return ReportCard(
        metrics=_measured(estimates, judged, judgments, scale, pairwise=pairwise, seed=seed, draws=draws),
        num_prompts=len(judged),
        num_ordered=sum(len(set(prompt.worths)) > 1 for prompt in judged),
        num_responses=len(flat),
        histogram=histogram([score for own in numbers for score in own], own_scale),
        reliability=reliability,
        unscored=_reasons(flat),
        data=digest(judged),
    )


def digest(judged: Sequence[JudgedPrompt]) -> str:
    """Equal for equal judged prompts."""
    text = json.dumps([[p.prompt, p.responses, p.worths, p.is_rated] for p in judged])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _scale_of(numbers: Sequence[Sequence[float]], scale: Scale | None, *, pairwise: bool) -> Scale:
    """Of the histogram: the judge's own, probabilities', or from the lowest to the highest score given."""
    if pairwise:
        return Scale(0.0, 1.0, False)
    every = [score for own in numbers for score in own]
    low = min(every, default=0.0)
    return scale or Scale(low, max(every) if len(set(every)) > 1 else low + 1.0, False)


def _measured(
    estimates: Mapping[str, Estimate],
    judged: Sequence[JudgedPrompt],
    judgments: Sequence[Sequence[Judgment]],
    scale: Scale | None,
    *,
    pairwise: bool,
    seed: Sequence[int | str],
    draws: int,
) -> dict[str, Metric]:
    """What is asked of this judge and these data; what does not apply is left out, not shown as absent."""
    out: set[str] = set()
    if not any(prompt.is_rated for prompt in judged):
        out |= {"exact_score", "spearman_pooled", "kendall_pooled", "bias", "mae", "ece"}
    if scale is None or pairwise:
        out |= {"exact_score"}
    if not any(judgment.votes for own in judgments for judgment in own):
        out |= {"parse_rate", "vote_agreement", "vote_sd"}
    resampled = resamples(len(judged), draws=draws, seed=seed)
    names = [name for name in METRICS if name in estimates and name not in out]
    return {name: measured(estimates[name], resampled) for name in names}


def _reasons(judgments: Sequence[Judgment]) -> dict[str, int]:
    """The commonest first; what is rare is put together."""
    reasons = (judgment.reason for judgment in judgments if judgment.score is None)
    counts = Counter(_OVER if reason.startswith(TOO_LONG) else reason for reason in reasons).most_common()
    rest = sum(num for _, num in counts[_MOST_REASONS:])
    return dict(counts[:_MOST_REASONS]) | ({"other reasons": rest} if rest else {})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value

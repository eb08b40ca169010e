"""Which two of a prompt's candidates become a pair, or why none do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.base import TOO_LONG
from self_rewarding_lm_pytorch.judges.points import at_least, order
from self_rewarding_lm_pytorch.preferences.length_control import LengthControl
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Prompt, Skipped
from self_rewarding_lm_pytorch.text import UNFINISHED


def best_and_worst(rewards: Tensor) -> tuple[int, int]:
    """Indices of the highest and the lowest reward, float (N,) with NaN for none; ties to the first."""
    best = int(rewards.nan_to_num(nan=-math.inf).argmax())
    worst = int(rewards.nan_to_num(nan=math.inf).argmin())
    return best, worst


def rewards_differ(preferred: float, unpreferred: float) -> bool:
    """Whether the preferred reward is really higher; rewards equal but for rounding say nothing.

    They are numbers or tensors of one.
    """
    return order(float(preferred), float(unpreferred)) > 0


def is_not_negative(reward: float) -> bool:
    return reward >= 0


def always(reward: float) -> bool:
    return True


@dataclass(frozen=True)
class PairingRule:
    """How a prompt's judged candidates become a pair."""

    pick: Callable[[Tensor], Any] = best_and_worst
    is_valid_reward: Callable[[float], bool] = is_not_negative
    is_valid_pair: Callable[[Any, Any], Any] = rewards_differ
    min_margin: float = 0.0  # the judge's points by which chosen must lead
    needs_end: bool = False  # only candidates that wrote an end-of-sequence token take part
    length_control: LengthControl | None = None  # picks instead of `pick`; it sees lengths too

    def pair(
        self, prompt: Prompt, visit: int, candidates: Sequence[Candidate], judgments: Sequence[Judgment]
    ) -> PreferencePair | Skipped:
        """The pair of one visit to a prompt; the judgments stand in the candidates' order."""
        both = zip(candidates, judgments, strict=True)
        rewards = torch.tensor([self.reward(*each) for each in both], dtype=torch.float64)
        usable = int((~rewards.isnan()).sum())
        if usable < 2:
            return Skipped(prompt.index, visit, self._what_is_missing(candidates, judgments))
        best, worst = self._picked(rewards, candidates)
        high, low = float(rewards[best]), float(rewards[worst])
        if math.isnan(high) or math.isnan(low):
            return Skipped(prompt.index, visit, "the picked candidates have no score")
        if not bool(self.is_valid_pair(high, low)):
            return Skipped(prompt.index, visit, "tie" if order(high, low) == 0 else "pair not valid")
        if not at_least(high, low + self.min_margin):
            return Skipped(prompt.index, visit, "margin too small")
        chosen, rejected = candidates[best], candidates[worst]
        if chosen.ids == rejected.ids:
            return Skipped(prompt.index, visit, "equal responses")
        return PreferencePair(
            prompt_index=prompt.index,
            visit=visit,
            prompt=prompt.text,
            chosen=chosen.text,
            rejected=rejected.text,
            prompt_ids=prompt.ids,
            chosen_ids=chosen.ids,
            rejected_ids=rejected.ids,
            chosen_index=chosen.index,
            rejected_index=rejected.index,
            chosen_score=high,
            rejected_score=low,
        )

    def reward(self, candidate: Candidate, judgment: Judgment) -> float:
        """The score, or NaN where this candidate may not be part of a pair."""
        score = judgment.score
        if score is None or (self.needs_end and candidate.finish_reason != "eos"):
            return math.nan
        return score if bool(self.is_valid_reward(score)) else math.nan

    def _what_is_missing(self, candidates: Sequence[Candidate], judgments: Sequence[Judgment]) -> str:
        """Why fewer than two candidates can take part: what most of the others failed."""
        causes: Counter[str] = Counter()
        for candidate, judgment in zip(candidates, judgments, strict=True):
            if judgment.score is None:
                causes[_why_unscored(judgment)] += 1
            elif self.needs_end and candidate.finish_reason != "eos":
                causes["unfinished"] += 1
            elif not bool(self.is_valid_reward(judgment.score)):
                causes[_refused(self.is_valid_reward)] += 1
        cause = f" ({causes.most_common(1)[0][0]})" if causes else ""
        return f"fewer than two usable candidates{cause}"

    def _picked(self, rewards: Tensor, candidates: Sequence[Candidate]) -> tuple[int, int]:
        if self.length_control is not None:
            return self.length_control.pick(rewards.tolist(), [len(each.ids) for each in candidates])
        picked = self.pick(rewards)
        try:
            best, worst = (int(index) for index in picked)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"pick_paired_rewards_fn returned {picked!r}; expected two indices (best, worst)"
            ) from error
        count = len(rewards)
        if not (0 <= best < count and 0 <= worst < count):
            raise ConfigError(
                f"pick_paired_rewards_fn returned ({best}, {worst}), but there are {count} candidates; "
                f"indices run from 0 to {count - 1}"
            )
        return best, worst


def _refused(is_valid_reward: Callable[..., Any]) -> str:
    default = ", which by default takes 0 and more" if is_valid_reward is is_not_negative else ""
    return f"reward refused by is_valid_reward{default}"


def _why_unscored(judgment: Judgment) -> str:
    if judgment.reason.startswith(TOO_LONG):
        return "judge prompt over its limit"
    return UNFINISHED if judgment.reason == UNFINISHED else "no score"

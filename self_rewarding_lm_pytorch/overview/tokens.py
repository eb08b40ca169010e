"""Tokens that a stage samples and trains on, as far as its plan tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from self_rewarding_lm_pytorch.overview.lengths import Lengths
from self_rewarding_lm_pytorch.overview.steps import Count
from self_rewarding_lm_pytorch.preferences.search import VISITS_PER_PAIR
from self_rewarding_lm_pytorch.stages.base import StageConfig
from self_rewarding_lm_pytorch.stages.budgets import DEFAULT_JUDGMENT, DEFAULT_RESPONSE
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings


@dataclass(frozen=True)
class Tokens:
    """None where only a run can tell. What is sampled is at most so much: answers may end sooner.

    candidates, votes: where each visit gives a pair; a search may take `most_visits` times as many. item:
    mean of what is trained on, a pair as one row that forks. step: an optimizer step, of all processes.
    """

    prompts: int | None = None
    candidates: int | None = None
    votes: int | None = None
    most_visits: int = 1  # the search's bound, as a multiple
    item: float | None = None
    longest: int | None = None
    step: int | None = None
    is_rough: bool = False

    def as_dict(self) -> dict[str, Any]:
        at_most = None if self.candidates is None else self.most_visits * self.candidates
        votes_at_most = None if self.votes is None else self.most_visits * self.votes
        return {
            "prompt_tokens": self.prompts,
            "candidate_tokens": self.candidates,
            "candidate_tokens_at_most": at_most,
            "vote_tokens": self.votes,
            "vote_tokens_at_most": votes_at_most,
            "item_tokens": None if self.item is None else round(self.item),
            "longest_item_tokens": self.longest,
            "step_tokens": self.step,
            "rough": self.is_rough,
        }


def stage_tokens(
    stage: StageConfig, lengths: dict[str, Lengths], items: Count, context: int | None
) -> Tokens:
    """lengths: of each data source that could be measured. items: as `stage_steps` counts them."""
    if getattr(stage, "train", None) is None:
        return _written(stage, context)
    if stage.kind == "spin":
        return _spin(stage, lengths.get("data"), context)
    if "prompts" in type(stage).model_fields:
        return _sampled(stage, lengths.get("prompts"), items, context)
    data, makes_more = lengths.get("data"), getattr(stage, "judge_data", None) is not None
    sampled: dict[str, Any] = {"candidates": 0, "votes": None if makes_more else 0}
    if data is None:
        return Tokens(**sampled)
    return _trained(stage, data.mean, data.longest, data.is_rough, **sampled)


def _trained(stage: Any, mean: float, longest: int, is_rough: bool, **more: Any) -> Tokens:
    step = round(stage.train.batch_size * mean)
    return Tokens(item=mean, longest=longest, step=step, is_rough=is_rough, **more)


def _response_tokens(stage: Any, longest_prompt: int, context: int | None) -> int:
    """What a response may take, behind the longest prompt."""
    wanted = getattr(stage.candidates, "max_new_tokens", None) or DEFAULT_RESPONSE
    limits = [limit for limit in (context, getattr(stage, "max_seq_len", None)) if limit is not None]
    return max(1, min([wanted, *(limit - longest_prompt for limit in limits)]))


def _sampled(stage: Any, prompts: Lengths | None, items: Count, context: int | None) -> Tokens:
    response = _response_tokens(stage, 0 if prompts is None else prompts.longest_prompt, context)
    visits = _visits(stage, items)
    if stage.kind == "online" and visits is not None and stage.train.num_steps is None:
        visits *= stage.train.epochs
    is_search = stage.kind == "online" or getattr(stage, "num_pairs", None) is not None
    answers = None if visits is None else visits * stage.candidates.num * _writers(stage)
    candidates = None if answers is None else answers * response
    votes = _vote_tokens(stage, answers)
    again = 1 + getattr(getattr(stage, "pairing", None), "recycle", 0)
    most = (VISITS_PER_PAIR if is_search else 1) * again
    if prompts is None:
        return Tokens(candidates=candidates, votes=votes, most_visits=most)
    mean, longest = prompts.mean + 2 * response, prompts.longest + 2 * response
    sizes = round(prompts.mean * prompts.rows), candidates, votes, most
    names = ("prompts", "candidates", "votes", "most_visits")
    return _trained(stage, mean, longest, prompts.is_rough, **dict(zip(names, sizes, strict=True)))


def _visits(stage: Any, items: Count) -> int | None:
    if stage.kind == "online" and stage.train.num_steps is not None:
        return int(stage.train.num_steps * stage.train.batch_size)
    return getattr(stage, "num_pairs", None) or items.number


def _writers(stage: Any) -> int:
    """Models that answer each prompt: with temporal a past one too, and perhaps a future one."""
    temporal = getattr(stage, "temporal", None)
    return 1 if temporal is None else 2 + temporal.future


def _vote_tokens(stage: Any, answers: int | None) -> int | None:
    """0 for a judge that is read and not sampled, and for rewards; None where judgments are judged, too."""
    judge = getattr(stage, "judge", None)
    if not isinstance(judge, JudgeSettings) or judge.mode != "sampled":
        return 0
    if answers is None or getattr(stage, "train_judge", False):
        return None
    judges = 1 if getattr(stage, "consistency", None) is None else 2
    return judges * answers * judge.votes * (judge.max_new_tokens or DEFAULT_JUDGMENT)


def _spin(stage: Any, data: Lengths | None, context: int | None) -> Tokens:
    """Each answer has the room that its own prompt leaves it."""
    if data is None:
        return Tokens(votes=0)
    limits = [limit for limit in (context, stage.max_seq_len) if limit is not None]
    is_given = stage.max_seq_len is not None and stage.opponent.max_new_tokens is None
    wanted = min(limits) if is_given else stage.opponent.max_new_tokens or DEFAULT_RESPONSE
    room = [limit - round(data.mean_prompt) for limit in limits]
    response = max(1, min([wanted, *room]))
    sampled = stage.num_iterations * data.rows * response
    mean, longest = data.mean + response, data.longest + min([wanted, *limits])
    return _trained(stage, mean, longest, data.is_rough, candidates=sampled, votes=0)


def _written(stage: Any, context: int | None) -> Tokens:
    """New prompts: each attempt writes up to its budget."""
    num = getattr(stage, "num", None)
    if num is None:
        return Tokens()
    budget = stage.max_new_tokens or min(256, DEFAULT_RESPONSE if context is None else context // 4)
    return Tokens(candidates=num * budget, votes=0, most_visits=(stage.max_attempts or 8 * num) // num)

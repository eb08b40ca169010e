"""A reward model over token ids: any module or function giving one number for each row."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.judges.base import OnProgress
from self_rewarding_lm_pytorch.models.policy import evaluation_mode
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt


class RewardModelJudge:
    """Asks `reward(ids)` for ids of prompt + response, (batch, length) -> (batch,) or (batch, 1).

    Padding cannot change a score: rows of equal length go together, or, where the function takes a
    `mask` keyword (bool, True on real tokens), padded rows do, with their mask.
    """

    num_votes = 0

    def __init__(
        self, reward: Callable[..., Any], *, device: torch.device | None = None, batch_size: int = 32
    ) -> None:
        self._reward = reward
        self._device = device or torch.device("cpu")
        self._batch_size = batch_size if _can_batch(reward) else 1
        called = reward.forward if isinstance(reward, nn.Module) else reward
        self._takes_mask = _has_parameter(called, "mask")

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        rows = [prompt.ids + candidate.ids for prompt, candidate in shown]
        scores: dict[int, float] = {}
        for batch in self._batches(rows):
            values = self._score([rows[i] for i in batch])
            scores |= dict(zip(batch, values, strict=True))
            if on_progress is not None:
                on_progress(len(batch), 0)
        return [_judgment(candidate, scores[i]) for i, (_, candidate) in enumerate(shown)]

    def _batches(self, rows: list[tuple[int, ...]]) -> list[list[int]]:
        groups: dict[int, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            groups[0 if self._takes_mask else len(row)].append(i)
        size = self._batch_size
        return [
            group[start : start + size] for group in groups.values() for start in range(0, len(group), size)
        ]

    def _score(self, rows: list[tuple[int, ...]]) -> list[float]:
        width = max(map(len, rows))
        ids = torch.tensor([list(row) + [0] * (width - len(row)) for row in rows], device=self._device)
        arguments: dict[str, Any] = {}
        if self._takes_mask:
            lengths = torch.tensor([len(row) for row in rows], device=self._device)
            arguments["mask"] = torch.arange(width, device=self._device) < lengths[:, None]
        try:
            with _evaluating(self._reward):
                out = self._reward(ids, **arguments)
        except Exception as error:  # anybody's module or function, which may fail in any way
            raise JudgeError(
                f"the reward model failed on ids of shape {tuple(ids.shape)}, the largest of them "
                f"{int(ids.max())}: {error!r:.300}. It must take ids of the policy's vocabulary, as long as "
                "prompt and response together; give one that does, or `reward`, a function over text"
            ) from error
        return [float(value) for value in _one_number_each(out, len(rows))]


def _one_number_each(out: Any, num_rows: int) -> Tensor:
    out = getattr(out, "logits", out)  # Hugging Face classifiers return a record
    if not isinstance(out, Tensor):
        raise JudgeError(
            f"the reward model returned {type(out).__name__}, not a tensor of shape "
            f"({num_rows},); have it return one number for each row"
        )
    if out.shape == (num_rows, 1):
        out = out[:, 0]
    if out.ndim == 2 and out.shape[0] == num_rows:
        raise ConfigError(
            f"the reward model gives {out.shape[1]} numbers for each response; wrap it in a function that "
            "says how they become one (for example `lambda ids: model(ids)[:, 1]`)"
        )
    if out.shape != (num_rows,):
        raise JudgeError(
            f"the reward model turned {num_rows} rows into shape {tuple(out.shape)}; expected "
            f"({num_rows},) or ({num_rows}, 1), one number for each row"
        )
    numbers: Tensor = out.detach().float().cpu()
    return numbers


def _judgment(candidate: Candidate, score: float) -> Judgment:
    finite = math.isfinite(score)
    return Judgment(
        prompt_index=candidate.prompt_index,
        visit=candidate.visit,
        candidate_index=candidate.index,
        score=score if finite else None,
        reason="" if finite else f"the reward is {score}",
    )


def _evaluating(reward: Callable[..., Any]) -> AbstractContextManager[None]:
    return evaluation_mode(reward) if isinstance(reward, nn.Module) else torch.no_grad()


def _can_batch(reward: Callable[..., Any]) -> bool:
    """Hugging Face classifiers without a padding token refuse more than one row."""
    config = getattr(reward, "config", None)
    return config is None or getattr(config, "pad_token_id", 0) is not None


def _has_parameter(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in callables have no signature
        return False

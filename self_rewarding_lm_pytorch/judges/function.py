"""A reward function over text: (prompts, responses) -> one number for each."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.judges.base import OnProgress
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt

RewardFunction = Callable[[list[str], list[str]], Any]


class FunctionJudge:
    """Calls the function in batches. None, NaN and infinity are no score."""

    num_votes = 0

    def __init__(self, function: RewardFunction, *, batch_size: int = 256) -> None:
        self._function = function
        self._batch_size = batch_size

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        judgments: list[Judgment] = []
        for start in range(0, len(shown), self._batch_size):
            batch = shown[start : start + self._batch_size]
            rewards = self._rewards([p.text for p, _ in batch], [c.text for _, c in batch])
            pairs = zip(batch, rewards, strict=True)
            judgments += [_judgment(candidate, reward) for (_, candidate), reward in pairs]
            if on_progress is not None:
                on_progress(len(batch), 0)
        return judgments

    def _rewards(self, prompts: list[str], responses: list[str]) -> list[Any]:
        name = getattr(self._function, "__qualname__", repr(self._function))
        try:
            rewards = list(self._function(prompts, responses))
        except Exception as error:
            raise JudgeError(
                f"reward function {name} failed on a batch of {len(prompts)} responses: {error!r}; "
                f"the first response was {responses[0][:80]!r}"
            ) from error
        if len(rewards) != len(prompts):
            raise JudgeError(
                f"reward function {name} gave {len(rewards)} rewards for {len(prompts)} responses; "
                "it must return one for each, in order"
            )
        return rewards


def _judgment(candidate: Candidate, reward: Any) -> Judgment:
    score = None if reward is None else float(reward)
    usable = score is not None and math.isfinite(score)
    return Judgment(
        prompt_index=candidate.prompt_index,
        visit=candidate.visit,
        candidate_index=candidate.index,
        score=score if usable else None,
        reason="" if usable else f"the reward is {reward}",
    )


def load_reward_function(source: str, *, base: Path | None = None) -> RewardFunction:
    """The function named by `file.py:name` or `package.module:name`.

    A relative file is looked for beside the plan (`base`) first, then in the working directory.
    """
    place, _, name = source.rpartition(":")
    if not place:
        raise ConfigError(f"reward {source!r} must be file.py:name or package.module:name")
    try:
        if place.endswith(".py"):
            beside = base / place if base is not None else Path(place)
            path = beside if beside.exists() else Path(place)
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None or not path.exists():
                raise ConfigError(f"reward {source!r}: there is no file {str(path)!r}")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        function: RewardFunction = getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"reward {source!r} cannot be loaded: {error}") from error
    return function

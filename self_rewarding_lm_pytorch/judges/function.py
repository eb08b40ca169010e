"""A reward function over text: (prompts, responses) -> one number for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.judges.base import OnProgress
from self_rewarding_lm_pytorch.judges.time_limit import TimedOut, within
from self_rewarding_lm_pytorch.objects import load_object
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt

DEFAULT_TIMEOUT_SECONDS = 600.0  # of one call, as long as the openai SDK waits for a model

RewardFunction = Callable[[list[str], list[str]], Any]


class FunctionJudge:
    """Calls the function in batches. None, NaN and infinity are no score.

    timeout_seconds: of one call; a JudgeError names the batch that took longer. None: it may take any time.
    """

    num_votes = 0

    def __init__(
        self,
        function: RewardFunction,
        *,
        batch_size: int = 256,
        timeout_seconds: float | None = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self._function = function
        self._batch_size = batch_size
        self._timeout_seconds = timeout_seconds

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        judgments: list[Judgment] = []
        for start in range(0, len(shown), self._batch_size):
            batch = shown[start : start + self._batch_size]
            rewards = self._rewards([p.text for p, _ in batch], [c.text for _, c in batch])
            pairs = zip(batch, rewards, strict=True)
            judgments += [_judgment(candidate, self._number(reward)) for (_, candidate), reward in pairs]
            if on_progress is not None:
                on_progress(len(batch), 0)
        return judgments

    @property
    def _name(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))

    def _number(self, reward: Any) -> float | None:
        try:
            if isinstance(reward, str | bytes):
                raise TypeError("text")  # float("4") would take it, and float("good") would not
            return None if reward is None else float(reward)
        except (TypeError, ValueError, RuntimeError) as error:  # torch raises RuntimeError for many numbers
            raise JudgeError(
                f"reward function {self._name} gave {reward!r:.80}; each reward must be a number, or None"
            ) from error

    def _rewards(self, prompts: list[str], responses: list[str]) -> list[Any]:
        name = self._name
        try:
            rewards = within(self._timeout_seconds, lambda: list(self._function(prompts, responses)))
        except TimedOut:
            raise JudgeError(
                f"reward function {name} took longer than {self._timeout_seconds:g} seconds for a batch of "
                f"{len(prompts)} responses, of which the first is {responses[0][:80]!r} to the prompt "
                f"{prompts[0][:80]!r}. Look for what it waits for there, or raise reward_timeout_seconds"
            ) from None
        except Exception as error:
            raise JudgeError(
                f"reward function {name} failed on a batch of {len(prompts)} responses: {error!r:.300}; "
                f"the first response was {responses[0][:80]!r}. Mend the function, or have it return None "
                "for a response that it cannot score"
            ) from error
        if len(rewards) != len(prompts):
            raise JudgeError(
                f"reward function {name} gave {len(rewards)} rewards for {len(prompts)} responses; "
                "it must return one for each, in order"
            )
        return rewards


def _judgment(candidate: Candidate, reward: float | None) -> Judgment:
    usable = reward is not None and math.isfinite(reward)
    return Judgment(
        prompt_index=candidate.prompt_index,
        visit=candidate.visit,
        candidate_index=candidate.index,
        score=reward if usable else None,
        reason="" if usable else f"the reward is {reward}",
    )


def load_reward_function(source: str, *, base: Path | None = None) -> RewardFunction:
    """The function named by `file.py:name` or `package.module:name`.

    A relative file is looked for beside the plan (`base`) first, then in the working directory.
    """
    wanted = "a function that takes (prompts, responses)"
    function = load_object(source, what="reward", wanted=wanted, base=base)
    if not callable(function):
        raise ConfigError(
            f"reward {source!r} is {type(function).__name__}, not a function; name one that takes (prompts, "
            "responses) and returns a number for each"
        )
    given: RewardFunction = function
    return given

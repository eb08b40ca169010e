"""What a generator is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.records import FinishReason

StopRule = Callable[[Sequence[int]], bool]
"""Asked after each token with the sample's tokens so far; True ends the sample."""


@dataclass(frozen=True, slots=True)
class Request:
    """Samples wanted after one prompt."""

    ids: tuple[int, ...]  # the prompt, at least one token
    keys: tuple[int, ...]  # one sample for each key
    max_new_tokens: int
    stop: StopRule | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample: its tokens (the end-of-sequence token included) and why it ended."""

    ids: tuple[int, ...]
    finish_reason: FinishReason


OnProgress = Callable[[int, int], None]
"""Called with (completions finished, tokens sampled) since the last call."""


class Generator(Protocol):
    """Whatever can continue token ids; it need not be this process's model."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, on_progress: OnProgress | None = None
    ) -> list[list[Completion]]:
        """For each request, in order, a completion for each of its keys."""
        ...

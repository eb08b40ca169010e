"""Getting a score from a judge that wrote none: its prefix is appended, the value decoded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from self_rewarding_lm_pytorch.generation.choices import Tokens
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.slot import ScoreSlot
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.seeds import uniforms
from self_rewarding_lm_pytorch.text import Codec


class ScoreForcer:
    """Decodes a score among the parser's valid values after its literal prefix, on a new line.

    closing: tokens put before that where a judge's reasoning never ended.
    Raises ConfigError for a judge whose score has no literal prefix.
    """

    def __init__(
        self,
        policy: Policy,
        codec: Codec,
        parser: ScoreParser,
        *,
        temperature: float,
        use_cache: bool = True,
        closing: Tokens = (),
    ) -> None:
        self.closing = closing
        self._policy = policy
        self._temperature = temperature
        self._use_cache = use_cache
        self._slot = ScoreSlot.of(
            parser,
            lambda text: codec.continuation_ids("\n" + text),
            setting="unparsed='force'",
            instead="unparsed='drop'",
        )
        self._values = torch.tensor(self._slot.values, dtype=torch.float64)

    @property
    def num_tokens(self) -> int:
        """Room that forcing needs behind the judge's own text."""
        return len(self.closing) + self._slot.num_tokens

    def force(self, contexts: Sequence[tuple[int, ...]], keys: Sequence[int]) -> list[float]:
        """A score after each context (the judge's prompt and what it wrote), drawn by its key."""
        probabilities = self._slot.probabilities(
            self._policy, contexts, temperature=self._temperature, use_cache=self._use_cache
        )
        cumulative = probabilities.cumsum(dim=1)
        drawn = uniforms(torch.tensor(list(keys), dtype=torch.int64), 0)[:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, drawn, right=True)[:, 0].clamp(max=len(self._values) - 1)
        return [float(value) for value in self._values[chosen]]

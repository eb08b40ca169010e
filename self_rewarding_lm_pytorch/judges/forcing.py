"""Getting a score from a judge that wrote none: its prefix is appended, the value decoded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.choices import choice_probabilities
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.seeds import uniforms
from self_rewarding_lm_pytorch.text import Codec


class ScoreForcer:
    """Decodes a score among the parser's valid values after its literal prefix."""

    def __init__(
        self,
        policy: Policy,
        codec: Codec,
        parser: ScoreParser,
        *,
        temperature: float,
        use_cache: bool = True,
    ) -> None:
        prefix = parser.literal_prefix
        if prefix is None:
            raise ConfigError(
                "unparsed='force' appends the text that stands before the score, but this judge has none "
                "(only parse_reward, or a pattern whose beginning is not plain text); use unparsed='drop', "
                "or give a reward_regex_template that begins with literal text"
            )
        self._policy = policy
        self._temperature = temperature
        self._use_cache = use_cache
        texts = parser.forced_values()
        self._values = torch.tensor([float(text) for text in texts], dtype=torch.float64)
        # Prefix and value are tokenized together: where a tokenizer joins the blank to the digit, the
        # prefix alone would end in tokens that never precede a score.
        whole = [codec.continuation_ids("\n" + prefix + text) for text in texts]
        shared = _shared_length(whole)
        self._prefix = whole[0][:shared]
        self._choices = [ids[shared:] for ids in whole]

    @property
    def num_tokens(self) -> int:
        """Room that forcing needs behind the judge's own text."""
        return len(self._prefix) + max(map(len, self._choices))

    def force(self, contexts: Sequence[tuple[int, ...]], keys: Sequence[int]) -> list[float]:
        """A score after each context (the judge's prompt and what it wrote), drawn by its key."""
        probabilities = choice_probabilities(
            self._policy,
            [context + self._prefix for context in contexts],
            self._choices,
            temperature=self._temperature,
            use_cache=self._use_cache,
        ).cpu()
        cumulative = probabilities.cumsum(dim=1)
        drawn = uniforms(torch.tensor(list(keys), dtype=torch.int64), 0)[:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, drawn, right=True)[:, 0].clamp(max=len(self._values) - 1)
        return [float(value) for value in self._values[chosen]]


def _shared_length(rows: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all rows begin with, leaving each row at least one of its own."""
    shortest = min(map(len, rows))
    equal = (len({row[place] for row in rows}) == 1 for place in range(shortest))
    return min(next((place for place, same in enumerate(equal) if not same), shortest), shortest - 1)

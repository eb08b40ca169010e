"""Where a judge's score stands: the tokens before it, and those of each valid value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.choices import Tokens, choice_probabilities
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.models.policy import Policy


@dataclass(frozen=True, slots=True)
class ScoreSlot:
    """The text before a score and its valid values, as tokens."""

    prefix: Tokens  # what the values have in common
    choices: tuple[Tokens, ...]  # what each adds, at least one token, the lowest value first
    values: tuple[float, ...]

    @classmethod
    def of(
        cls, parser: ScoreParser, tokenize: Callable[[str], Tokens], *, setting: str, instead: str
    ) -> ScoreSlot:
        """The slot of the parser's literal prefix and whole scores.

        tokenize: from "Score: 4" to its tokens where the judge writes that. Prefix and value go in
            together: where a tokenizer joins the blank to the digit, the prefix alone would end in
            tokens that never precede a score.
        setting: what asks for a slot, and `instead` what to use where there is none, for messages.
        Raises ConfigError for a judge without a literal prefix, or values that look alike.
        """
        prefix = parser.literal_prefix
        if prefix is None:
            raise ConfigError(
                f"{setting} needs the text that stands before the score, but this judge has none (only "
                f"parse_reward, or a pattern whose beginning is not plain text); use {instead}, or give a "
                "score_pattern (reward_regex_template) that begins with literal text"
            )
        texts = parser.whole_scores()
        whole = [tokenize(prefix + text) for text in texts]
        if len(set(whole)) < len(whole):
            same = [text for text, tokens in zip(texts, whole, strict=True) if whole.count(tokens) > 1]
            raise ConfigError(
                f"{setting} needs to tell the scores {' and '.join(same[:4])} apart, but the tokenizer "
                f"writes them with the same tokens; use {instead}, or scores that it can write (score_range)"
            )
        shared = _shared_length(whole)
        choices = tuple(tokens[shared:] for tokens in whole)
        return cls(whole[0][:shared], choices, tuple(float(text) for text in texts))

    @property
    def num_tokens(self) -> int:
        """Room that the slot needs behind what stands before it."""
        return len(self.prefix) + max(map(len, self.choices))

    def probabilities(
        self, policy: Policy, contexts: Sequence[Tokens], *, temperature: float = 1.0, use_cache: bool = True
    ) -> Tensor:
        """The distribution over the values behind each context: float64 (contexts, values), CPU."""
        return choice_probabilities(
            policy,
            [context + self.prefix for context in contexts],
            self.choices,
            temperature=temperature,
            use_cache=use_cache,
        ).cpu()


def _shared_length(rows: Sequence[Tokens]) -> int:
    """How many tokens all rows begin with, leaving each row at least one of its own."""
    shortest = min(map(len, rows))
    equal = (len({row[place] for row in rows}) == 1 for place in range(shortest))
    return min(next((place for place, same in enumerate(equal) if not same), shortest), shortest - 1)

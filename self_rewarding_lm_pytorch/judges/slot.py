"""Where a judge's answer stands: the tokens that all valid answers begin with, and those that each adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.choices import Tokens, choice_probabilities
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.models.policy import Policy


@dataclass(frozen=True, slots=True)
class Slot:
    """The valid answers, as tokens."""

    prefix: Tokens  # what the answers have in common
    choices: tuple[Tokens, ...]  # what each adds, at least one token, in the order they were given

    @property
    def num_tokens(self) -> int:
        """Room that the slot needs behind what stands before it."""
        return len(self.prefix) + max(map(len, self.choices))

    def probabilities(
        self, policy: Policy, contexts: Sequence[Tokens], *, temperature: float = 1.0, use_cache: bool = True
    ) -> Tensor:
        """The distribution over the answers behind each context: float64 (contexts, choices), CPU."""
        return choice_probabilities(
            policy,
            [context + self.prefix for context in contexts],
            self.choices,
            temperature=temperature,
            use_cache=use_cache,
        ).cpu()


@dataclass(frozen=True, slots=True)
class ScoreSlot(Slot):
    """The text before a score and its valid values, the lowest first."""

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
        return cls(*split(whole), tuple(float(text) for text in texts))


def split(whole: Sequence[Tokens]) -> tuple[Tokens, tuple[Tokens, ...]]:
    """What all rows (different, none empty) begin with, and the rest of each: at least one token."""
    shortest = min(map(len, whole))
    equal = (len({row[place] for row in whole}) == 1 for place in range(shortest))
    shared = min(next((place for place, same in enumerate(equal) if not same), shortest), shortest - 1)
    return whole[0][:shared], tuple(row[shared:] for row in whole)

"""What is to be sampled: the same seeded prompts for both sides. Plain Python, no torch."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

SEED = 1234
TEMPERATURE = 0.7
TOP_P = 0.9


@dataclass(frozen=True)
class Sizes:
    """The shape of a Llama with tied embeddings."""

    vocabulary: int = 8192
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    feed_forward: int = 688

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """The linear maps of one layer, as (in, out)."""
        keys = (self.hidden, self.kv_heads * self.head_size)
        square, up = (self.hidden, self.hidden), (self.hidden, self.feed_forward)
        return [square, keys, keys, square, up, up, (self.feed_forward, self.hidden)]

    @property
    def parameters(self) -> int:
        norms = self.hidden * (2 * self.layers + 1)
        in_layers = sum(rows * columns for rows, columns in self.matrices)
        return self.vocabulary * self.hidden + self.layers * in_layers + norms


FULL = Sizes()
SMALL = Sizes(vocabulary=512, hidden=64, layers=2, heads=4, kv_heads=2, feed_forward=172)


def sizes(small: bool) -> Sizes:
    return SMALL if small else FULL


@dataclass(frozen=True)
class Work:
    """Prompts, and how much to sample after each."""

    prompts: list[list[int]]
    samples: int  # for each prompt
    new_tokens: int  # for each sample; no token ends a sample early
    unit: str  # tokens/s or votes/s

    @property
    def units(self) -> int:
        votes = len(self.prompts) * self.samples
        return votes if self.unit == "votes/s" else votes * self.new_tokens

    def by_length(self) -> list[list[int]]:
        return sorted(self.prompts, key=len)

    def evenly(self, count: int) -> Work:
        """Only `count` of the prompts, spread evenly over the lengths."""
        ordered = self.by_length()
        places = [(2 * i + 1) * len(ordered) // (2 * count) for i in range(count)]
        return replace(self, prompts=[ordered[place] for place in places])

    def middle(self, count: int) -> Work:
        """Only the `count` prompts of middle length: neighbours, so padded as in the whole."""
        first = max(0, (len(self.prompts) - count) // 2)
        return replace(self, prompts=self.by_length()[first : first + count])


def generation(small: bool) -> Work:
    """W1: 32 prompts of 20 to 200 tokens, 4 candidates of 96 tokens each."""
    count, low, high, samples, new_tokens = (3, 4, 12, 2, 6) if small else (32, 20, 200, 4, 96)
    draw = Draw(sizes(small).vocabulary)
    return Work([draw.tokens(low, high) for _ in range(count)], samples, new_tokens, "tokens/s")


def judging(small: bool) -> Work:
    """W2: 32 prompts with 4 answers each, 3 votes of 48 tokens on every answer.

    A judge's prompt is the rubric of 400 tokens, the prompt of 20 to 200, the answer of 20 to 96 and
    the template's end of 40, as in the package's own judge.
    """
    questions, answers, new_tokens = (2, 2, 5) if small else (32, 4, 48)
    draw = Draw(sizes(small).vocabulary)
    shrink = 10 if small else 1
    rubric, tail = draw.tokens(400 // shrink), draw.tokens(40 // shrink)
    prompts = []
    for _ in range(questions):
        question = draw.tokens(20 // shrink, 200 // shrink)
        for _ in range(answers):
            prompts.append(rubric + question + draw.tokens(20 // shrink, 96 // shrink) + tail)
    return Work(prompts, 3, new_tokens, "votes/s")


WORKS = {"W1": generation, "W2": judging}


class Draw:
    """Random tokens; those below `lowest`, which pads and ends, are left out."""

    def __init__(self, vocabulary: int, lowest: int = 1) -> None:
        self._random = random.Random(SEED)
        self._vocabulary = vocabulary
        self._lowest = lowest

    def tokens(self, low: int, high: int | None = None) -> list[int]:
        length = self._random.randint(low, high or low)
        return [self._random.randrange(self._lowest, self._vocabulary) for _ in range(length)]

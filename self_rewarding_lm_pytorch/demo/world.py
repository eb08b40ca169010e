"""The small world `demo` trains in: a task, a rubric and people's labels, all made from one seed.

A prompt names an adjective and two nouns; an answer should be a short sentence that uses them. The
rubric is additive, five points, after the five-point judge of Self-Rewarding Language Models
(Yuan et al. 2024, figure 2), but exact, so that what a model says of an answer can be checked.
Pure Python: no torch, no files, no clock. The same seed gives the same world.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice, permutations, product
from random import Random


def split_words(text: str) -> list[str]:
    """Words and single punctuation marks, in order: `"a fox."` -> `["a", "fox", "."]`."""
    return _WORD.findall(text)


def join_words(words: Iterable[str]) -> str:
    """The inverse of `split_words`: one space between words, none before punctuation."""
    return re.sub(r" (?=[.:])", "", " ".join(words))


_WORD = re.compile(r"\w+|[^\w\s]")

NOUNS = split_words(
    "fox tree river stone bird house boat cloud garden horse "
    "lamp road king child wolf bridge moon door field ship"
)
ADJECTIVES = split_words("red old small quiet bright cold tall green happy dark")
VERBS = split_words("sees finds likes watches follows meets")
PLACES = split_words("near by under behind")
SCENERY = split_words("today again slowly outside")
VAGUE_ADJECTIVE, VAGUE_NOUN = "nice", "thing"
CONTENT_WORDS = frozenset(NOUNS + ADJECTIVES + VERBS)
GLUE = split_words("the and nice thing . : use task answer judge yes no stop short fresh Score 0 1 2 3 4 5")
SPECIALS = ["<pad>", "<eos>"]

MAX_WORDS = 9
NUM_TEST_PROMPTS, NUM_JUDGED_PROMPTS = 500, 300
NUM_SEED_ANSWERS, NUM_JUDGE_LABELS, NUM_JUDGED = 3_000, 6_000, 500

# What the judge is shown. It names no rubric: a model this small learns that from the labels.
JUDGE_TEMPLATE = "judge task: {{ prompt }} answer: {{ response }} judge:"


class Codec:
    """Words to ids and back; `.` and `:` are words that `decode` writes against the word before them.

    `encode(decode(ids)) == ids` for all ids but those of the two special tokens, which `decode` leaves
    out and no text can spell: an answer cannot smuggle in an end of sequence.
    """

    def __init__(self) -> None:
        self.words = SPECIALS + GLUE + NOUNS + ADJECTIVES + VERBS + PLACES + SCENERY
        self.pad_id, self.eos_id = 0, 1
        self.vocab_size = len(self.words)
        self._ids = {word: index for index, word in enumerate(self.words) if word not in SPECIALS}

    def encode(self, text: str) -> list[int]:
        """Ids of the words of `text`, in order. Raises ValueError naming the first unknown word."""
        words = split_words(text)
        if unknown := [word for word in words if word not in self._ids]:
            known = " ".join(self._ids)
            raise ValueError(f"the demo's world has no word {unknown[0]!r}; it knows: {known}")
        return [self._ids[word] for word in words]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, words parted by one space; special tokens are left out."""
        return join_words(self.words[index] for index in ids if index not in (self.pad_id, self.eos_id))


def named_words(prompt: str) -> tuple[str, str, str]:
    """The three words a prompt asks for, in its order: an adjective and two nouns."""
    adjective, first, second = (word for word in split_words(prompt) if word in CONTENT_WORDS)
    return adjective, first, second


def checks(prompt: str, answer: str) -> dict[str, bool]:
    """The rubric, criterion by criterion: the three named words, `stop`, `short` and `fresh`.

    - a named word counts when it occurs, wherever and however often;
    - `stop`: the last word is a full stop and it is the only one. One in the middle therefore loses the
      point even when there is another at the end, as do two at the end, and a full stop alone earns nothing;
    - `short`: one to nine words, punctuation not counted, so that saying nothing is not brevity;
    - `fresh`: there are words, and no noun, adjective or verb occurs twice (`the` and the like may).
    """
    tokens = split_words(answer)
    words = [token for token in tokens if token not in ".:"]
    content = [word for word in words if word in CONTENT_WORDS]
    return {word: word in words for word in named_words(prompt)} | {
        "stop": bool(words) and tokens[-1] == "." and tokens.count(".") == 1,
        "short": 1 <= len(words) <= MAX_WORDS,
        "fresh": bool(words) and len(content) == len(set(content)),
    }


def true_score(prompt: str, answer: str) -> int:
    """0 to 5: one point for each named word, one for `stop`, and one for being both `short` and `fresh`."""
    *points, short, fresh = checks(prompt, answer).values()
    return sum(points) + (short and fresh)


def judgment(prompt: str, answer: str) -> str:
    """What a careful person writes of `answer`: each check and its outcome, then `Score: N`."""
    findings = [f"{name} {'yes' if holds else 'no'}" for name, holds in checks(prompt, answer).items()]
    return f"{' '.join(findings)} Score: {true_score(prompt, answer)}"


def judge_prompt(prompt: str, answer: str) -> str:
    """`JUDGE_TEMPLATE` filled in; equal to what the library's jinja2 makes of it."""
    parts = {"prompt": prompt, "response": answer}
    return re.sub(r"{{ (\w+) }}", lambda match: parts[match[1]], JUDGE_TEMPLATE)


def write_answer(random: Random, prompt: str, quality: float = 0.5) -> str:
    """An answer each of whose five properties holds with probability `quality`, independently.

    A property fails in the ways people fail: mostly a vague word for the one asked for, or another, or none
    (but always a subject); no full stop, two, or one too early; a sentence that runs on or repeats.
    """
    adjective, first, second = named_words(prompt)
    nouns = random.sample([noun for noun in NOUNS if noun not in (first, second)], 4)
    adjectives = random.sample([word for word in ADJECTIVES if word != adjective], 2)
    verbs = random.sample(VERBS, 2)

    def holds() -> bool:
        return random.random() < quality

    about = adjective if holds() else random.choice((adjectives[0], VAGUE_ADJECTIVE, VAGUE_ADJECTIVE, ""))
    one = first if holds() else random.choice((nouns[0], VAGUE_NOUN, VAGUE_NOUN))
    two = second if holds() else random.choice((nouns[1], VAGUE_NOUN, VAGUE_NOUN, ""))
    scenery = random.choice(SCENERY) if random.random() < 0.3 else ""
    words = [word for word in ("the", about, one, verbs[0], two and "the", two, scenery) if word]
    if not holds():
        words = _spoil(random, words, [adjectives[1], nouns[2], verbs[1], nouns[3]])
    if holds():
        return join_words([*words, "."])
    middle = random.randrange(1, len(words))
    too_early = [*words[:middle], ".", *words[middle:], "."]
    return join_words(random.choice((words, words, [*words, ".", "."], too_early)))


def _spoil(random: Random, words: list[str], spare: Sequence[str]) -> list[str]:
    """`words` made to break the fifth property: a content word said again, or more than nine words."""
    content = [word for word in words if word in CONTENT_WORDS]
    if random.random() < 0.5:
        return [*words, random.choice(("and", *PLACES)), "the", random.choice(content)]
    # The words of the tail are new, so that this answer fails by its length alone.
    adjective, noun, verb, other = spare
    return [*words, random.choice(PLACES), "the", adjective, noun, "and", verb, "the", other]


@dataclass(frozen=True)
class Judged:
    """An answer of known worth: `score` is `true_score(prompt, answer)`, 0 to 5."""

    prompt: str
    answer: str
    score: int


@dataclass(frozen=True)
class World:
    """Everything the demo is given, as a function of `seed`. The three lists of prompts share none."""

    seed: int = 0

    @cached_property
    def prompts(self) -> list[str]:
        """All 3,800 prompts, shuffled: every adjective with every ordered pair of different nouns."""
        named = product(ADJECTIVES, permutations(NOUNS, 2))
        every = [f"use {adjective} {one} {two}:" for adjective, (one, two) in named]
        self._random("prompts").shuffle(every)
        return every

    @property
    def test_prompts(self) -> list[str]:
        """500 prompts to measure answers on; never trained on."""
        return self.prompts[:NUM_TEST_PROMPTS]

    @property
    def train_prompts(self) -> list[str]:
        """The 3,000 prompts left for training, supervised or self-rewarded."""
        return self.prompts[NUM_TEST_PROMPTS + NUM_JUDGED_PROMPTS :]

    @cached_property
    def seed_answers(self) -> list[tuple[str, str]]:
        """3,000 (prompt, answer): what there is to imitate, mediocre on purpose."""
        random = self._random("seed answers")
        prompts = islice(cycle(self.train_prompts), NUM_SEED_ANSWERS)
        return [(prompt, write_answer(random, prompt)) for prompt in prompts]

    @cached_property
    def judge_labels(self) -> list[Judged]:
        """6,000 answers of all qualities on training prompts, labelled once by the rubric as by people."""
        return self._judged("judge labels", self.train_prompts, NUM_JUDGE_LABELS)

    @cached_property
    def judged_set(self) -> list[Judged]:
        """500 answers of all qualities on the 300 judged-set prompts: the fixed measure of the judge."""
        return self._judged("judged set", self.prompts[NUM_TEST_PROMPTS:][:NUM_JUDGED_PROMPTS], NUM_JUDGED)

    def _judged(self, purpose: str, prompts: Sequence[str], count: int) -> list[Judged]:
        random = self._random(purpose)
        # A quality drawn uniformly makes the score uniform over 0..5 (a beta-binomial): no score is rare.
        shown = islice(cycle(prompts), count)
        answers = [(prompt, write_answer(random, prompt, random.random())) for prompt in shown]
        return [Judged(prompt, answer, true_score(prompt, answer)) for prompt, answer in answers]

    def _random(self, purpose: str) -> Random:
        """A stream per purpose, so that drawing more of one thing changes no other."""
        return Random(f"{self.seed}/{purpose}")

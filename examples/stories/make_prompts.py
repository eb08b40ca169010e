"""Writes prompts.jsonl and heldout.jsonl: story openings put together from small word lists.

No text of others is used. Run again, it writes the same files: `python make_prompts.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

HERE = Path(__file__).parent
NUM_TRAINING = 600
NUM_HELD_OUT = 200

GIRLS = ("Lily", "Mia", "Sue", "Anna", "Lucy", "Amy", "Sara", "Jane", "Daisy", "Molly")
BOYS = ("Tom", "Tim", "Ben", "Max", "Sam", "Jack", "Bob", "Leo", "John", "Billy")
ANIMALS = ("cat", "dog", "bird", "bear", "rabbit", "frog", "mouse", "fox", "duck", "lion")
KINDS = ("little", "happy", "small", "big", "brave", "kind")
PLACES = ("park", "garden", "forest", "beach", "farm", "zoo", "lake", "store")
HOMES = ("a big forest", "a small house", "a green garden", "a quiet farm", "an old tree", "a little town")
THINGS = ("ball", "toy car", "red hat", "box", "flower", "kite", "book", "shiny rock", "boat", "cake")
TIMES = ("One day", "One sunny day", "One morning", "One night", "One rainy day")


def openings() -> Iterator[str]:
    """Every opening there is; each names one character."""
    children = [(name, "girl", "She") for name in GIRLS] + [(name, "boy", "He") for name in BOYS]
    for (name, child, they), kind, place in product(children, KINDS[:3], PLACES):
        yield f"Once upon a time, there was a {kind} {child} named {name}. {they} loved to go to the {place}."
    for (name, child, _), time, place, thing in product(children, TIMES, PLACES, THINGS):
        yield f"{time}, a {child} named {name} went to the {place}. There was a {thing} there."
    for name, animal, kind, home in product(BOYS, ANIMALS, KINDS, HOMES):
        yield f"Once there was a {kind} {animal} named {name}. He lived in {home}."
    for (name, _, they), time, thing in product(children, TIMES, THINGS):
        yield f"{time}, {name} got a new {thing}. {they} wanted to show it to a friend."
    for name, animal, place in product(GIRLS, ANIMALS, PLACES):
        yield f"{name} was a {animal}. She liked to play in the {place} every day."


def chosen() -> tuple[list[str], list[str]]:
    """Openings to train on and others to measure on, as many of each kind as there are kinds to share."""
    by_kind: dict[str, list[str]] = {}
    for opening in openings():
        by_kind.setdefault(_kind(opening), []).append(opening)
    draw = random.Random(0)
    mixed = []
    share = (NUM_TRAINING + NUM_HELD_OUT) // len(by_kind)
    for texts in by_kind.values():
        mixed += draw.sample(texts, share)
    draw.shuffle(mixed)
    return mixed[:NUM_TRAINING], mixed[NUM_TRAINING:]


def _kind(opening: str) -> str:
    marks = (" loved to go ", " there.", " lived in ", " wanted to show ", " liked to play ")
    return next(mark for mark in marks if mark in opening)


if __name__ == "__main__":
    for file, texts in zip(("prompts.jsonl", "heldout.jsonl"), chosen(), strict=True):
        lines = [json.dumps({"prompt": text}) + "\n" for text in texts]
        (HERE / file).write_text("".join(lines), encoding="utf-8")

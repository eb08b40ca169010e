"""Which items make up which optimizer step: a pure function of the seed, so resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.seeds import address

Item = TypeVar("Item")

CPU_TOKENS = 1536
"""Tokens in one forward pass on a CPU: with more, what the backward pass needs leaves its caches."""
DEVICE_TOKENS = 16_384

PART = 4096
"""Items that are held, sorted or read through at once, where there may be a million."""


def tokens_at_once(wanted: int | None, device: torch.device) -> int:
    """The tokens of a forward pass: what a plan says, or what suits the device."""
    return wanted or (CPU_TOKENS if device.type == "cpu" else DEVICE_TOKENS)


def steps_per_epoch(num_items: int, batch_size: int) -> int:
    """The last step of an epoch may be smaller; nothing is dropped."""
    return math.ceil(num_items / batch_size)


def step_indices(num_items: int, batch_size: int, step: int, *seed: int | str) -> list[int]:
    """The items of optimizer step `step` (from 0): each epoch is its own shuffle of all items."""
    epoch, within = divmod(step, steps_per_epoch(num_items, batch_size))
    order = _shuffle(num_items, address("shuffle", *seed, epoch))
    found: list[int] = order[within * batch_size : (within + 1) * batch_size].tolist()
    return found


@lru_cache(maxsize=8)  # of the epochs under way: the steps of an epoch share one
def _shuffle(num_items: int, key: int) -> Tensor:
    return torch.randperm(num_items, generator=torch.Generator().manual_seed(key))


def bounded_parts(items: Sequence[Item], *, is_whole: bool = False) -> Iterator[list[Item]]:
    """The items in their order, at most PART at once, or all of them where they are needed together."""
    size = max(1, len(items)) if is_whole else PART
    for start in range(0, len(items), size):
        yield [items[place] for place in range(start, min(start + size, len(items)))]


def micro_batches(items: Sequence[Item], size: int, max_tokens: int | None = None) -> list[list[Item]]:
    """Items of similar length together, so that little padding is computed; longest first.

    At most `size` items, or one, and at most max_tokens tokens with padding. Within a step the order of
    items changes nothing but rounding: sums are divided by counts.
    """
    order = sorted(items, key=len, reverse=True)  # type: ignore[arg-type]
    found: list[list[Item]] = []
    start = 0
    while start < len(order):
        longest = len(order[start])  # type: ignore[arg-type]
        fitting = size if max_tokens is None else min(size, max(1, max_tokens // max(1, longest)))
        found.append(order[start : start + fitting])
        start += fitting
    return found

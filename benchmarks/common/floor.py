"""The least time the work can take: its matrix products over the machine's rate for them.

What must be computed: the layers once for every distinct prefix among the prompts (equal prefixes give
equal states) and for every sampled token but a sample's last; attention's two products over all earlier
positions; the output weights once for each distinct prompt and each later draw. Not counted: the
attention's softmax, norms, rotations, sampling, and every copy.
"""

from __future__ import annotations

import time

import torch

from common.work import Sizes, Work

ROWS = 128


def operations(work: Work, sizes: Sizes) -> float:
    """Multiplications and additions of the work's matrix products."""
    depths = _new_depths(work.prompts)
    samples = work.samples * len(work.prompts)
    for prompt in work.prompts:
        depths += list(range(len(prompt) + 1, len(prompt) + work.new_tokens)) * work.samples
    in_layers = 2 * sizes.layers * sum(rows * columns for rows, columns in sizes.matrices)
    attention = 4 * sizes.layers * sizes.hidden * sum(depths)
    heads = len({tuple(prompt) for prompt in work.prompts}) + samples * (work.new_tokens - 1)
    return len(depths) * in_layers + attention + heads * 2 * sizes.hidden * sizes.vocabulary


def _new_depths(prompts: list[list[int]]) -> list[int]:
    """The position (from 1) of each distinct prefix: in order, what a prompt does not share with the last."""
    depths: list[int] = []
    before: list[int] = []
    for prompt in sorted(prompts):
        shared = next((i for i, (a, b) in enumerate(zip(before, prompt, strict=False)) if a != b), None)
        shared = min(len(before), len(prompt)) if shared is None else shared
        depths += range(shared + 1, len(prompt) + 1)
        before = prompt
    return depths


def matmul_rate(sizes: Sizes, seconds: float = 0.5) -> float:
    """Operations per second of the model's own products on ROWS rows, the best round counted."""
    shapes = [*sizes.matrices, (sizes.hidden, sizes.vocabulary)]
    pairs = [(torch.randn(ROWS, rows), torch.randn(rows, columns)) for rows, columns in shapes]
    work = sum(2 * ROWS * rows * columns for rows, columns in shapes)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for left, right in pairs:
            torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return work / best

"""The sides of the comparisons, each a function called in a child process of its own.

Every side builds the model, warms up on two short samples, and times one run of the work. It returns
{"units", "seconds", "memory_mb", "entropy", ...}; the sampling functions run under a stopwatch.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from common import floor, models
from common import work as works
from common.measure import Stopwatch, peak_memory_mb, seconds_of
from common.work import TEMPERATURE, TOP_P, Work

TOKEN_BUDGET = 65_536  # all of W2 at once, as the peer's batches are tried too; the library's default is half

WARM_UP = Work([[1, 2, 3, 4]], samples=2, new_tokens=3, unit="tokens/s")
_ENTROPY_ROWS = 8  # sequences on which the entropy is measured


def ours(work: str, small: bool, model: str = "llama") -> dict[str, Any]:
    """This package's engine, every prompt in one call; also measures the floor."""
    from self_rewarding_lm_pytorch.generation.filters import top_p
    from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
    from self_rewarding_lm_pytorch.generation.requests import Request
    from self_rewarding_lm_pytorch.generation.sampling import Sampling
    from self_rewarding_lm_pytorch.models.load import policy_for
    from self_rewarding_lm_pytorch.seeds import address

    sizes, wanted = works.sizes(small), works.WORKS[work](small)
    module = models.MODELS[model](sizes)
    generator = PolicyGenerator(policy_for(module), (), token_budget=TOKEN_BUDGET)
    sampling = Sampling(TEMPERATURE, top_p, {"thres": TOP_P})
    watch = Stopwatch()
    watch.watch(importlib.import_module("self_rewarding_lm_pytorch.generation.generator"), "sample")

    def run(part: Work) -> list[list[int]]:
        requests = [
            Request(tuple(ids), tuple(address("bench", i, j) for j in range(part.samples)), part.new_tokens)
            for i, ids in enumerate(part.prompts)
        ]
        completed = generator.generate(requests, sampling)
        return [
            list(request.ids + completion.ids)
            for request, completions in zip(requests, completed, strict=True)
            for completion in completions
        ]

    result = _measured(run, module, wanted, watch)
    rate = floor.matmul_rate(sizes)
    return result | {"matmul_rate": rate, "floor_seconds": floor.operations(wanted, sizes) / rate}


def transformers(work: str, small: bool, batch: int, prompts: int | None = None) -> dict[str, Any]:
    """`generate` of transformers on left-padded static batches of `batch` prompts, sorted by length.

    prompts: only so many of them, of middle length, to find the better batch size.
    """
    from transformers.generation.logits_process import LogitsProcessorList

    wanted = works.WORKS[work](small)
    wanted = wanted if prompts is None else wanted.middle(prompts)
    module: Any = models.llama(works.sizes(small))
    watch = Stopwatch()
    watch.watch(LogitsProcessorList, "__call__")
    watch.watch(torch.nn.functional, "softmax")  # only its sampling calls this one
    watch.watch(torch, "multinomial")

    def run(part: Work) -> list[list[int]]:
        ordered, sequences = part.by_length(), []
        for first in range(0, len(ordered), batch):
            rows = ordered[first : first + batch]
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            output = module.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=0,
                num_return_sequences=part.samples,
                max_new_tokens=part.new_tokens,
            )
            for number, row in enumerate(output.tolist()):
                sequences.append(row[width - len(rows[number // part.samples]) :])
        return sequences

    torch.manual_seed(works.SEED)
    return _measured(run, module, wanted, watch)


def published(work: str, small: bool, prompts: int) -> dict[str, Any]:
    """The published library's sampler, one call for each prompt with its candidates, as its trainer does.

    It runs the whole model over everything for each token, so it is given only some of the prompts.
    """
    from importlib.metadata import version

    from self_rewarding_lm_pytorch.sampling_utils import sample, top_p

    found = version("self-rewarding-lm-pytorch")
    if not found.startswith("0."):
        raise RuntimeError(f"this is version {found} of the library, not the published one")
    module = models.x_transformer(works.sizes(small))

    def run(part: Work) -> list[list[int]]:
        sequences = []
        for ids in part.prompts:
            output = sample(
                module,
                prompts=torch.tensor([ids] * part.samples),
                seq_len=len(ids) + part.new_tokens,
                temperature=TEMPERATURE,
                filter_fn=top_p,
                filter_kwargs={"thres": TOP_P},
                output_keep_prompt=True,
            )
            sequences += output.tolist()
        return sequences

    torch.manual_seed(works.SEED)
    return _measured(run, module, works.WORKS[work](small).evenly(prompts), None)


def _measured(run: Any, module: Any, work: Work, watch: Stopwatch | None) -> dict[str, Any]:
    run(WARM_UP)
    if watch is not None:
        watch.seconds = 0.0
    seconds, sequences = seconds_of(lambda: run(work))
    memory = peak_memory_mb()
    _check(work, sequences)
    result = {"units": work.units, "seconds": seconds, "memory_mb": memory}
    if watch is not None:
        result["sampling_seconds"] = watch.seconds
    some = sequences[:: max(1, len(sequences) // _ENTROPY_ROWS)][:_ENTROPY_ROWS]
    return result | {"entropy": models.entropy(module, some, work.new_tokens)}


def _check(work: Work, sequences: list[list[int]]) -> None:
    """Every sample is complete: no side may save time by stopping early."""
    expected = sorted(len(ids) + work.new_tokens for ids in work.prompts for _ in range(work.samples))
    if sorted(map(len, sequences)) != expected:
        raise RuntimeError("some samples are shorter or longer than the work asks for")

"""Measures a run of the stories plan: the original model and every stage's checkpoint, alike.

    python examples/stories/measure.py runs/stories --model MODEL

Each continues the same 200 held-out openings with the same random numbers. Printed for each: the mean
reward with its standard error; the mean negative log-likelihood of its responses under the ORIGINAL model
(nats a token: strange text costs more); distinct-2 (different word pairs / word pairs, over all responses:
a model that repeats itself has less); the mean length; how many ended by themselves. Then what the
external-reward stage gained, paired by opening, and texts of two openings with a typical gain.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import torch

from self_rewarding_lm_pytorch.data.collate import collate
from self_rewarding_lm_pytorch.data.columns import prompt_text
from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.judges.function import load_reward_function
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Prompt
from self_rewarding_lm_pytorch.text import Codec, example_from_parts
from self_rewarding_lm_pytorch.training.batching import micro_batches

HERE = Path(__file__).parent
SAMPLES_PER_PROMPT = 2
MAX_NEW_TOKENS = 96


@dataclass(frozen=True)
class Measured:
    """One model on the held-out openings; `rewards` holds each opening's mean."""

    name: str
    texts: list[str]  # sample 0 of opening 0, sample 1 of opening 0, ...
    rewards: list[float]
    nll: float  # nats a token, under the original model
    distinct_2: float
    mean_tokens: float
    ended: float  # share of samples, 0 to 1


def measured(name: str, folder: str, prompts: list[Prompt], original: Policy) -> Measured:
    """Samples from the model in `folder` and looks at the samples from every side."""
    policy, codec = load_policy(folder)
    assert codec is not None, f"{folder} has no tokenizer"
    sampler = CandidateSampler(
        PolicyGenerator(policy, codec.eos_ids),
        codec,
        num=SAMPLES_PER_PROMPT,
        sampling=Sampling(temperature=0.7, filter_fn=None),
        max_new_tokens=MAX_NEW_TOKENS,
        max_seq_len=None,
        policy_name=name,
        seed=("held-out",),  # the same for all models
    )
    sampled = sampler.sample([(prompt, 0) for prompt in prompts])
    own = [(prompt, one) for prompt, several in zip(prompts, sampled, strict=True) for one in several]
    reward = load_reward_function(f"{HERE / 'reward.py'}:story_reward")
    rewards = reward([prompt.text for prompt, _ in own], [candidate.text for _, candidate in own])
    return Measured(
        name,
        [candidate.text for _, candidate in own],
        [fmean(rewards[i : i + SAMPLES_PER_PROMPT]) for i in range(0, len(rewards), SAMPLES_PER_PROMPT)],
        nll_per_token(original, codec, own),
        distinct_2([candidate.text for _, candidate in own]),
        fmean(len(candidate.ids) for _, candidate in own),
        fmean(candidate.finish_reason == "eos" for _, candidate in own),
    )


def nll_per_token(original: Policy, codec: Codec, samples: Sequence[tuple[Prompt, Candidate]]) -> float:
    """Mean over all tokens of the responses, in nats.

    An end counts as the likeliest of the codec's end tokens: the original ends its stories with <s>,
    while SFT taught the others </s>, which it has never seen; the choice between them says nothing.
    """
    by_end = []
    for end in codec.eos_ids:
        examples = [
            example_from_parts(prompt.ids, [end if t in codec.eos_ids else t for t in candidate.ids])
            for prompt, candidate in samples
        ]
        with original.evaluating():
            sums = [sequence_logprobs(original, collate(batch)) for batch in micro_batches(examples, 32)]
        by_end.append(torch.cat(sums))
    best = torch.stack(by_end).amax(dim=0)
    return -float(best.sum()) / sum(len(candidate.ids) for _, candidate in samples)


def distinct_2(texts: Sequence[str]) -> float:
    """Different pairs of neighbouring words / all of them, over all texts together."""
    pairs = [pair for text in texts for pair in pairwise(text.lower().split())]
    return len(set(pairs)) / len(pairs)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    return fmean(values), stdev(values) / math.sqrt(len(values))


def print_table(rows: Sequence[Measured]) -> None:
    columns = ["model", "reward", "NLL under the original", "distinct-2", "tokens", "ended"]
    cells = []
    for row in rows:
        mean, error = mean_and_error(row.rewards)
        figures = [f"{row.nll:.3f}", f"{row.distinct_2:.3f}", f"{row.mean_tokens:.1f}", f"{row.ended:.0%}"]
        cells.append([row.name, f"{mean:.3f} ± {error:.3f}", *figures])
    samples = f"{len(rows[0].rewards)} held-out openings x {SAMPLES_PER_PROMPT} samples at temperature 0.7"
    Reporter().table(samples, columns, cells)


def print_gain(before: Measured, after: Measured) -> None:
    """What changed between two models, paired by opening: the random numbers are the same."""
    mean, error = mean_and_error([b - a for a, b in zip(before.rewards, after.rewards, strict=True)])
    print(
        f"{before.name} -> {after.name}: reward {mean:+.3f} ± {error:.3f} ({mean / error:.1f} standard "
        f"errors), NLL {after.nll - before.nll:+.3f} nats a token, "
        f"distinct-2 {after.distinct_2 / before.distinct_2:.1%} of what it was"
    )


def typical(before: Measured, after: Measured, count: int = 2) -> list[int]:
    """The openings whose gain is nearest the mean gain; not the best, and not picked by hand."""
    gains = [b - a for a, b in zip(before.rewards, after.rewards, strict=True)]
    return sorted(range(len(gains)), key=lambda i: abs(gains[i] - fmean(gains)))[:count]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--model", required=True, help="the original model: a folder or a hub name")
    arguments = parser.parse_args()
    original, codec = load_policy(arguments.model)
    assert codec is not None, f"{arguments.model} has no tokenizer"
    texts = [prompt_text(row, i) for i, row in enumerate(read_rows(HERE / "heldout.jsonl"))]
    prompts = [Prompt(i, text, codec.prompt_ids(text)) for i, text in enumerate(texts)]
    stages = json.loads((arguments.run / "summary.json").read_text(encoding="utf-8"))["stages"]
    models = [("original", arguments.model)]
    models += [(stage["name"], str(arguments.run / stage["checkpoint"])) for stage in stages]
    rows = [measured(name, folder, prompts, original) for name, folder in models]
    print_table(rows)
    for number, stage in enumerate(stages, 1):
        if stage["kind"] != "external_reward":
            continue
        before, after = rows[number - 1], rows[number]
        print_gain(before, after)
        print_gain(rows[0], after)
        for i in typical(before, after):
            sample = i * SAMPLES_PER_PROMPT
            print(f"\n{prompts[i].text}\n  before: {before.texts[sample]}\n  after:  {after.texts[sample]}")


if __name__ == "__main__":
    main()

"""W1, sampling candidates: our engine against transformers, and against the published library.

32 prompts of 20 to 200 tokens, 4 candidates of 96 tokens each, temperature 0.7, top-p 0.9, on a random
Llama of 6.45 million parameters in float32. transformers gets its prompts sorted by length, in the best
of four batch sizes. `W1_x_transformers` is the same work on an x-transformers model of that shape,
against the sampler of self-rewarding-lm-pytorch 0.2.12.
"""

from __future__ import annotations

import argparse

from common import published, report
from common.children import Side
from common.compare import Outcome, compare

NAMES = ("W1", "W1_x_transformers")
BATCHES = (4, 8, 16, 32)  # prompts; each brings 4 rows
PUBLISHED_PROMPTS = 4


def main() -> None:
    chosen = report.options("Sampling candidates", NAMES)
    report.show(run(chosen), chosen.json)


def run(chosen: argparse.Namespace) -> Outcome:
    outcome = Outcome()
    if "W1" in chosen.only:
        outcome.merge(_against_transformers(chosen))
    if "W1_x_transformers" in chosen.only:
        outcome.merge(_against_published(chosen))
    return outcome


def _against_transformers(chosen: argparse.Namespace) -> Outcome:
    task = {"work": "W1", "small": chosen.small}
    peers = [
        Side(
            f"transformers.generate, {batch} prompts at once",
            "common.sides:transformers",
            {**task, "batch": batch},
        )
        for batch in (BATCHES[:1] if chosen.small else BATCHES)
    ]
    ours = Side("ours", "common.sides:ours", task)
    return compare("W1", "tokens/s", ours, peers, chosen.repeats, chosen.threads)


def _against_published(chosen: argparse.Namespace) -> Outcome:
    name, task = "W1_x_transformers", {"work": "W1", "small": chosen.small}
    count = 1 if chosen.small else PUBLISHED_PROMPTS
    try:
        python = published.python()
    except published.PublishedUnavailable as error:
        return Outcome(notes=[f"{name} is left out: the published library cannot be installed: {error}"])
    ours = Side("ours", "common.sides:ours", {**task, "model": "x_transformers"})
    peer = Side(
        f"self-rewarding-lm-pytorch {published.VERSION}",
        "common.sides:published",
        {**task, "prompts": count},
        python,
    )
    # Its memory is that of less work, so it is not compared.
    outcome = compare(name, "tokens/s", ours, [peer], chosen.repeats, chosen.threads, memory=False)
    outcome.notes.append(
        f"{name}: the published library gets only {count} of the prompts, spread evenly over the lengths, "
        "as it is slow; rates are compared."
    )
    return outcome


if __name__ == "__main__":
    main()

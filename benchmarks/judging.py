"""W2, judging: our engine against transformers.

32 prompts with 4 answers each, 3 votes on every answer. A judge's prompt is a rubric of 400 tokens, the
prompt (20 to 200), the answer (20 to 96) and an end of 40 tokens; every vote samples its 48 tokens, at
temperature 0.7 and top-p 0.9, on a random Llama of 6.45 million parameters in float32. transformers gets
its prompts sorted by length, in the best of four batch sizes, chosen on a quarter of the work.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from common import report
from common.children import Side, alternate
from common.compare import Outcome, compare, fastest

NAMES = ("W2",)
BATCHES = (4, 8, 16, 32)  # judge prompts; each brings 3 rows
TRIED_ON = 32  # prompts, a quarter, on which the batch sizes are tried


def main() -> None:
    chosen = report.options("Judging", NAMES)
    report.show(run(chosen), chosen.json)


def run(chosen: argparse.Namespace) -> Outcome:
    task = {"work": "W2", "small": chosen.small}
    batch = BATCHES[0] if chosen.small else _better_batch(task, chosen.threads)
    ours = Side("ours", "common.sides:ours", task)
    return compare("W2", "votes/s", ours, [_peer(task, batch)], chosen.repeats, chosen.threads)


def _better_batch(task: dict[str, Any], threads: int) -> int:
    """The peer's best batch size; tried once on part of the work, which takes it minutes otherwise."""
    print(f"W2, the peer's batch sizes on {TRIED_ON} prompts:", file=sys.stderr, flush=True)
    sides = [_peer({**task, "prompts": TRIED_ON}, batch) for batch in BATCHES]
    batch: int = fastest(alternate(sides, 1, threads), sides).arguments["batch"]
    return batch


def _peer(task: dict[str, Any], batch: int) -> Side:
    name = f"transformers.generate, {batch} prompts at once"
    return Side(name, "common.sides:transformers", {**task, "batch": batch})


if __name__ == "__main__":
    main()

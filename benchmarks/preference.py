"""W3, preference training: our loop against TRL's DPOTrainer, and against a plain loop.

96 pairs (prompts of 60 to 200 tokens, responses of 20 to 96), 16 in an optimizer step, on a random Llama
of 6.45 million parameters in float32, at a learning rate (1e-4) where losses and gradients move. All
sides train on the same pairs in the same order, reference log-probs included in the time; losses and
gradient norms are compared step by step. `W3_128k` is the peak memory with a vocabulary of 128,000.
"""

from __future__ import annotations

import argparse
from typing import Any

from common import report
from common.children import Side, alternate
from common.compare import Outcome, middle, speed

NAMES = ("W3", "W3_128k")


def main() -> None:
    chosen = report.options("Preference training", NAMES)
    report.show(run(chosen), chosen.json)


def run(chosen: argparse.Namespace) -> Outcome:
    outcome = Outcome()
    for name in (name for name in NAMES if name in chosen.only):
        outcome.merge(_compare(name, chosen))
    return outcome


def _compare(name: str, chosen: argparse.Namespace) -> Outcome:
    task = {"kind": name, "small": chosen.small}
    ours, trl, plain = (Side(side, f"common.pairs:{side}", task) for side in ("ours", "trl", "plain"))
    sides = [ours, trl, plain] if name == "W3" else [ours, trl]
    results = alternate(sides, chosen.repeats, chosen.threads)
    mine, theirs = results["ours"], results["trl"]
    outcome = Outcome()
    if name == "W3":
        outcome.add(name, speed(mine), speed(theirs), "pairs/s")
        outcome.add(f"{name}_plain", speed(mine), speed(results["plain"]), "pairs/s")
    outcome.add(f"{name}_memory", middle(mine, "memory_mb"), middle(theirs, "memory_mb"), "MB")
    losses, norms = (_largest_difference(mine, theirs, column) for column in (0, 1))
    outcome.add_difference(f"{name}_loss_max_diff", losses)
    outcome.add_difference(f"{name}_grad_norm_max_diff", norms)
    outcome.notes.append(f"{name}: the peer is trl.DPOTrainer; losses over the steps, ours: {_losses(mine)}.")
    return outcome


def _largest_difference(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], column: int) -> float:
    """Of any step in any run, relative to the peer's."""
    pairs = [
        (one[column], other[column])
        for run, peer in zip(mine, theirs, strict=True)
        for one, other in zip(run["steps"], peer["steps"], strict=True)
    ]
    return max(abs(one - other) / abs(other) for one, other in pairs)


def _losses(runs: list[dict[str, Any]]) -> str:
    return ", ".join(f"{loss:.4f}" for loss, _ in runs[0]["steps"])


if __name__ == "__main__":
    main()

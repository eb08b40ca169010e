"""From two sides' repeated runs to medians, ratios and sentences."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from common.children import Result, Side, alternate


@dataclass
class Outcome:
    """entries: what --json prints. notes: what people should know besides."""

    entries: dict[str, dict[str, float | str | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, ours: float, peer: float, unit: str) -> None:
        numbers = {"ours": round(ours, 3), "peer": round(peer, 3), "ratio": round(ours / peer, 3)}
        self.entries[name] = {**numbers, "unit": unit}

    def add_difference(self, name: str, value: float) -> None:
        """How far the two sides are apart, relative to the peer."""
        self.entries[name] = {"ours": value, "peer": 0.0, "ratio": None, "unit": "relative"}

    def merge(self, other: Outcome) -> None:
        self.entries |= other.entries
        self.notes += other.notes


def compare(
    name: str, unit: str, ours: Side, peers: Sequence[Side], repeats: int, threads: int, memory: bool = True
) -> Outcome:
    """Ours against the fastest of the peers (by its median), all alternating."""
    print(f"{name}:", file=sys.stderr, flush=True)
    results = alternate([ours, *peers], repeats, threads)
    peer = fastest(results, peers)
    mine, theirs = results[ours.name], results[peer.name]
    outcome = Outcome()
    outcome.add(name, speed(mine), speed(theirs), unit)
    if memory:
        outcome.add(f"{name}_memory", middle(mine, "memory_mb"), middle(theirs, "memory_mb"), "MB")
    outcome.notes.append(f"{name}: the peer is {peer.name}.")
    if "entropy" in mine[0]:
        outcome.notes.append(
            f"{name}: mean next-token entropy {middle(mine, 'entropy'):.2f} nats in our samples, "
            f"{middle(theirs, 'entropy'):.2f} in the peer's."
        )
    if all("sampling_seconds" in side[0] for side in (mine, theirs)):
        outcome.merge(_without_sampling(name, unit, mine, theirs))
    if "floor_seconds" in mine[0]:
        outcome.notes.append(_floor(name, mine))
    return outcome


def fastest(results: dict[str, list[Result]], sides: Sequence[Side]) -> Side:
    return max(sides, key=lambda side: speed(results[side.name]))


def speed(runs: list[Result]) -> float:
    """Median units per second."""
    return median(run["units"] / run["seconds"] for run in runs)


def middle(runs: list[Result], key: str) -> float:
    """The median of a number that every run gives."""
    return median(run[key] for run in runs)


def _without_sampling(name: str, unit: str, mine: list[Result], theirs: list[Result]) -> Outcome:
    """The sampler's share on either side, and the speeds of what is left."""
    outcome = Outcome()
    rests = [
        median(run["units"] / (run["seconds"] - run["sampling_seconds"]) for run in runs)
        for runs in (mine, theirs)
    ]
    shares = [median(run["sampling_seconds"] / run["seconds"] for run in runs) for runs in (mine, theirs)]
    outcome.add(f"{name}_without_sampling", *rests, unit)
    outcome.notes.append(
        f"{name}: sampling from logits takes {middle(mine, 'sampling_seconds'):.2f} of our "
        f"{middle(mine, 'seconds'):.2f} s ({shares[0]:.0%}) and {middle(theirs, 'sampling_seconds'):.2f} "
        f"of the peer's {middle(theirs, 'seconds'):.2f} s ({shares[1]:.0%}); "
        f"without it the ratio is {rests[0] / rests[1]:.2f}."
    )
    return outcome


def _floor(name: str, mine: list[Result]) -> str:
    floor, share = middle(mine, "floor_seconds"), median(r["floor_seconds"] / r["seconds"] for r in mine)
    return (
        f"{name}: the floor, its matrix products at this machine's {middle(mine, 'matmul_rate') / 1e9:.1f} "
        f"GFLOP/s, is {floor:.2f} s, {share:.0%} of our {middle(mine, 'seconds'):.2f} s."
    )

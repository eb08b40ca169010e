"""Fresh child processes, sides alternating. No torch here: a child's peak memory starts at its parent's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
# Whatever libraries read their thread count from; each child also sets torch's.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Result = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """What a child runs."""

    name: str
    function: str  # "module:function", importable from the benchmarks folder
    arguments: dict[str, Any] = field(default_factory=dict)
    python: str = sys.executable


class ChildFailed(Exception):
    """A child ended without a result."""


def run(side: Side, threads: int) -> Result:
    """The side's result, from a fresh process."""
    command = [side.python, str(BENCHMARKS / "child.py"), side.function, str(threads)]
    environment = os.environ | {name: str(threads) for name in _THREAD_VARIABLES}
    # Another checkout of the library on this path would be imported instead of the side's own.
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*command, json.dumps(side.arguments)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ChildFailed(f"{side.name} failed:\n{done.stderr[-3000:]}")
    result: Result = json.loads(done.stdout.strip().splitlines()[-1])
    if result["threads"] != threads:
        raise ChildFailed(f"{side.name} ran on {result['threads']} threads instead of {threads}")
    return result


def alternate(sides: Sequence[Side], repeats: int, threads: int) -> dict[str, list[Result]]:
    """Every side in turn, `repeats` times over, so that a slow spell of the machine hits all."""
    results: dict[str, list[Result]] = {side.name: [] for side in sides}
    for number in range(repeats):
        for side in sides:
            result = run(side, threads)
            results[side.name].append(result)
            print(
                f"  {side.name} {number + 1}/{repeats}: {result['seconds']:.2f} s, "
                f"{result['units'] / result['seconds']:.2f} a second",
                file=sys.stderr,
                flush=True,
            )
    return results

"""All benchmarks; writes results.md beside this file (`make bench`)."""

from __future__ import annotations

from pathlib import Path

import generation
import judging
import preference
from common import report
from common.compare import Outcome

BENCHMARKS = (generation, judging, preference)
RESULTS = Path(__file__).with_name("results.md")


def main() -> None:
    names = tuple(name for benchmark in BENCHMARKS for name in benchmark.NAMES)
    chosen = report.options("All benchmarks", names)
    outcome = Outcome()
    for benchmark in BENCHMARKS:
        if any(name in chosen.only for name in benchmark.NAMES):
            outcome.merge(benchmark.run(chosen))
    report.show(outcome, chosen.json)
    if not chosen.small:
        report.write(RESULTS, outcome, chosen)


if __name__ == "__main__":
    main()

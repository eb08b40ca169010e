"""Options, printing and the results page."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.compare import Outcome

_PACKAGES = ("self-rewarding-lm-pytorch", "torch", "transformers", "trl", "x-transformers", "numpy")

Benchmark = Callable[[argparse.Namespace], Outcome]


def options(description: str, names: tuple[str, ...]) -> argparse.Namespace:
    """The command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side (default: 3)")
    parser.add_argument("--small", action="store_true", help="a tiny model and little work: only a check")
    parser.add_argument("--threads", type=int, default=cores(), help="threads of each side (default: all)")
    parser.add_argument("--only", choices=names, action="append", help="only this part; may be repeated")
    chosen = parser.parse_args()
    chosen.only = chosen.only or list(names)
    return chosen


def show(outcome: Outcome, as_json: bool) -> None:
    print("\n".join(lines(outcome)))
    if as_json:
        print(json.dumps(outcome.entries))


def lines(outcome: Outcome) -> list[str]:
    """A table in Markdown, then the notes."""
    rows = [
        f"| {name} | {_number(e['ours'])} | {_number(e['peer'])} | {_number(e['ratio'], 2)} | {e['unit']} |"
        for name, e in outcome.entries.items()
    ]
    head = ["| work | ours | peer | ratio | unit |", "|---|---:|---:|---:|---|"]
    return [*head, *rows, "", *(f"- {note}" for note in outcome.notes)]


def write(path: Path, outcome: Outcome, chosen: argparse.Namespace) -> None:
    """The results page: numbers, machine, versions, command."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    text = [
        "# Benchmark results",
        "",
        f"Medians of {chosen.repeats} alternating runs, each in a fresh process; "
        "a ratio is ours divided by the peer's.",
        "",
        *lines(outcome),
        "",
        f"Machine: {machine(chosen.threads)}",
        "",
        f"Versions: {versions()}",
        "",
        f"Command: `{command}`",
        "",
    ]
    path.write_text("\n".join(text), encoding="utf-8")


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(threads: int) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{_cpu_name()}, {cores()} cores ({threads} threads used), {memory:.0f} GB; {platform.system()}"


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _cpu_name() -> str:
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [
        line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def _number(value: float | str | None, digits: int = 1) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:,.{digits}f}" if value == 0 or abs(value) >= 0.1 else f"{value:.1e}"

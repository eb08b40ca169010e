"""How long importing takes: medians of child processes, files cached. `--repeats N`, `--json`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median

NAME = "self_rewarding_lm_pytorch"
TIMED = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
ROWS = {
    f"import {NAME}": ("", f"import {NAME}", 0.5),
    "import torch": ("", "import torch", None),
    "from ... import SelfRewardingTrainer, over torch": (
        "import torch; ",
        f"from {NAME} import SelfRewardingTrainer",
        1.0,
    ),
    "from ... import run, over torch": ("import torch; ", f"from {NAME} import run", 1.0),
}


def seconds(before: str, timed: str) -> float:
    code = before + TIMED.format(timed)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def command_seconds(*arguments: str) -> float:
    """A whole process, the interpreter's start included."""
    import time

    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", NAME, *arguments], capture_output=True, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, tuple[float, float | None]] = {}
    for name, (before, timed, bound) in ROWS.items():
        seconds(before, timed)  # reads the files into the system's cache
        found[name] = (median(seconds(before, timed) for _ in range(options.repeats)), bound)
    found["--help"] = (median(command_seconds("--help") for _ in range(options.repeats)), 1.0)
    if options.json:
        print(json.dumps({name: value for name, (value, _) in found.items()}))
        return
    print(f"{'':<52}{'seconds':>9}{'bound':>9}")
    for name, (value, bound) in found.items():
        print(f"{name:<52}{value:>9.2f}{'-' if bound is None else f'{bound:.1f}':>9}")


if __name__ == "__main__":
    main()

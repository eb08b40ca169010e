"""The published library, in an environment of its own: it shares our import name."""

from __future__ import annotations

import shutil
import subprocess
import sys

from common.children import BENCHMARKS

VERSION = "0.2.12"
FOLDER = BENCHMARKS / ".published"
_CONSTRAINTS = BENCHMARKS.parent / "constraints.txt"


class PublishedUnavailable(Exception):
    """The environment cannot be made, most often for want of a network."""


def python() -> str:
    """The environment's interpreter; made on first use, with this project's pins."""
    interpreter, done = FOLDER / "bin" / "python", FOLDER / f"installed-{VERSION}"
    if done.exists():
        return str(interpreter)
    print(f"installing self-rewarding-lm-pytorch {VERSION} into {FOLDER.name}", file=sys.stderr, flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    _call([sys.executable, "-m", "venv", str(FOLDER)])
    wanted = [f"self-rewarding-lm-pytorch=={VERSION}", "x-transformers"]
    # torch first and by its exact version, as the Makefile does: that is the build without CUDA.
    pip = [str(interpreter), "-m", "pip", "install", "-q", "-c", str(_CONSTRAINTS)]
    for packages in ([_torch_pin()], wanted):
        _call([*pip, *packages])
    done.touch()
    return str(interpreter)


def _torch_pin() -> str:
    pins = _CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in pins if line.startswith("torch=="))


def _call(command: list[str]) -> None:
    # From the benchmarks folder, as pip would find our own package in the repository's.
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise PublishedUnavailable(next((line for line in said if line.startswith("ERROR")), said[-1]))

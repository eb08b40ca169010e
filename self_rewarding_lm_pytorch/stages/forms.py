"""How a stage reads its files, said once in a run."""

from __future__ import annotations

from typing import Any

from self_rewarding_lm_pytorch.data.formats import Use, told
from self_rewarding_lm_pytorch.data.readers import is_in_files
from self_rewarding_lm_pytorch.stages.base import Environment


def say_forms(env: Environment, source: Any, use: Use, *, rows: int | None = None) -> None:
    """A line for each file of the source: its form, which columns are what; nothing of items in memory.

    rows: how many there are, where that is known.
    """
    if is_in_files(source):
        for line in told(source, use, base=env.base, rows=rows):
            env.reporter.say_once(f"  {line}")

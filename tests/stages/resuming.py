"""Stages that are cut off inside a training, and what a resumed run is compared by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.progress import Phase, Reporter
from tests.stages.worlds import ITEMS, PAIRS, PROMPTS, STAGES, plan
from tests.test_resume import assert_equal_runs

PUSH = {"batch_size": 4, "learning_rate": 1e-2, "dropout": 0.2}
SFT = {"kind": "sft", "data": ITEMS, "num_steps": 6, "warmup_steps": 2, "log_every": 4, **PUSH}
DPO = {"kind": "dpo", "data": PAIRS, "num_steps": 6, "log_every": 4, **PUSH, "batch_size": 2}
ONLINE = {
    **STAGES["live"],
    "sample_every": 2,
    "num_steps": 6,
    "log_every": 1,
    "train": {**PUSH, "batch_size": 2},
}
WIN_RATE = {
    "kind": "win_rate",
    "prompts": PROMPTS[:3],
    "max_new_tokens": 8,
    "temperature": 3.0,
    "reward": "tests.stages.worlds:reward",
}
GO_ON = {"early_stop_every": 1, "early_stop_kwargs": {"calculate_should_stop": lambda scores: False}}
FIFTH = {
    "early_stop_every": 1,
    "early_stop_kwargs": {"calculate_should_stop": lambda scores: len(scores) == 5},
}


class Watching(Reporter):
    """Notes the work of a go; `each` is called after each training step, before its state is stored."""

    def __init__(self, each: Callable[[], None] = lambda: None) -> None:
        super().__init__(quiet=True)
        self.labels: list[str] = []
        self.advances: list[int] = []  # of the trainings
        self.warnings: list[str] = []
        self._each = each

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Phase]:
        self.labels.append(label)
        with super().phase(label, total, unit) as phase:
            if label == "training":
                phase.advance = self._advanced  # type: ignore[method-assign]
            yield phase

    def _advanced(self, count: int = 1, note: str = "") -> None:
        self.advances.append(count)
        self._each()


def settings(folder: Path, stage: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return plan(folder, stages=[{"name": "it", **stage}], save_every_seconds=0, **changes)


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what differs between any two runs."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "tokens_per_second")} for line in found]


def states(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder / "stages/01-it/state")) for path in folder.glob("stages/01-it/state/*/*")
    )


def assert_same(folder: Path, summary: dict[str, Any], whole: tuple[Path, dict[str, Any]]) -> None:
    assert lines(folder) == lines(whole[0])
    assert_equal_runs(folder, summary, whole, has_search=False)

"""`self-rewarding-lm demo`: a small model learns to answer and to judge, then improves itself twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.demo.measure import Measure
from self_rewarding_lm_pytorch.demo.plan import demo_plan, demo_report_card
from self_rewarding_lm_pytorch.demo.world import World
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.pipeline.silent import Silent
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.training.accelerator import make_accelerator

STORY = """\
A small language model, trained from nothing, improves itself. Nothing is downloaded.
  M1  learns from mediocre answers, and to judge answers by five points
  M2  answers 600 prompts four times, judges its own answers, prefers the better ones (DPO)
  M3  does so again, starting from M2
The true rubric only measures; M2 and M3 never see it."""


def run_demo(
    *,
    seed: int = 0,
    folder: Path = Path("runs/demo"),
    fresh: bool = False,
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Runs (or continues) the demo in `folder` and returns its summary."""
    accelerator = make_accelerator({})  # before anything is written: of several processes one writes
    reporter = (reporter or Reporter(quiet=quiet)) if processes.is_main() else Silent()
    started = time.monotonic()
    reporter.say(STORY)
    world = World(seed)
    plan = {**demo_plan(world, folder), "report_card": demo_report_card(world, folder)}
    measure = Measure(world, folder)
    summary = run(plan, fresh=fresh, reporter=reporter, evaluate=measure, accelerator=accelerator)
    show_table(summary, reporter)
    reporter.say(f"{time.monotonic() - started:.0f} s; summary: {folder / 'summary.json'}")
    return summary


def show_table(summary: dict[str, Any], reporter: Reporter) -> None:
    """The closing table: one row per model."""
    rows = []
    for row in summary["evaluation"]:
        rows.append(
            [
                row["model"],
                f"{row['true_score_mean']:.2f}",
                f"{row['true_score_perfect']:.0%}",
                _told(row["judge_spearman"], ".3f"),
                _told(row["judge_exact"], ".0%"),
                _told(row["win_rate_vs_previous"], ".0%"),
                f"{row['mean_response_tokens']:.1f}",
            ]
        )
    columns = ["model", "true score of 5", "perfect", "judge Spearman", "judge exact", "wins", "tokens"]
    reporter.table("A model improves itself", columns, rows)


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

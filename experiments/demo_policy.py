"""What the experiments with the `online` stage share: the demo's M1, and one stage of training from it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from common import TOKEN_BUDGET

from self_rewarding_lm_pytorch import load_checkpoint, run
from self_rewarding_lm_pytorch.demo.plan import ANSWER_TOKENS, OPTIMIZER, demo_codec, demo_plan, small_llama
from self_rewarding_lm_pytorch.demo.world import World
from self_rewarding_lm_pytorch.progress import Reporter

BATCH = 16


def pair_stage(world: World, kind: str, rate: float, num_steps: int) -> dict[str, Any]:
    """All that does not say who judges. The name is one for all, so that all visit the same prompts."""
    return {
        "name": "tuned",
        "kind": kind,
        "prompts": world.train_prompts,
        "candidates": {"num": 2, "temperature": 0.9, "top_p": None, "max_new_tokens": ANSWER_TOKENS},
        "shard_size": BATCH,  # no more is judged than is missing
        "beta": 0.1,
        "num_steps": num_steps,
        "batch_size": BATCH,
        "learning_rate": rate,
        "warmup_fraction": 0.1,
        **OPTIMIZER,
    }


@dataclass(frozen=True)
class Lab:
    """One seed's world and runs, below one folder; runs that are finished are not run again."""

    world: World
    folder: Path
    m1_steps: int

    def m1(self) -> Any:
        """M1 in a model of its own: the demo's first stage, supervised on seed answers and judgments."""
        plan = demo_plan(self.world, self.folder / f"M1-{self.m1_steps}")
        stage = {**plan["stages"][0], "num_steps": self.m1_steps}
        run({**plan, "stages": [stage]}, reporter=Reporter(quiet=True))
        return plan["model"]

    def trained(self, name: str, model: Any, stage: dict[str, Any]) -> dict[str, Any]:
        """Trains the model in place; the stage's figures."""
        plan = {
            "model": model,
            "tokenizer": demo_codec(),
            "seed": self.world.seed,
            "run": self.folder / name,
            "generation": {"token_budget": TOKEN_BUDGET},
            "stages": [stage],
        }
        figures: dict[str, Any] = run(plan, reporter=Reporter(quiet=True))["stages"][0]
        return figures

    def on_the_way(self, name: str, step: int) -> Any:
        """The model that a run with checkpoint_every was after so many steps."""
        model = small_llama(self.world.seed)
        load_checkpoint(model, self.folder / name / "stages" / "01-tuned" / "steps" / f"{step:06d}")
        return model


def labs(chosen: argparse.Namespace) -> list[Lab]:
    steps = 20 if chosen.small else 700  # of M1; 700 is the demo's
    return [Lab(World(seed), chosen.folder / f"seed-{seed}", steps) for seed in range(chosen.seeds)]


def options(description: str) -> argparse.ArgumentParser:
    """What both experiments can be told. Run one at a time: they may share `--folder`, for M1's sake."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--folder", type=Path, default=Path("runs/online_experiments"), help="the runs")
    parser.add_argument("--rate", type=float, action="append", help="only this learning rate")
    parser.add_argument("--small", action="store_true", help="little work, no picture: only a check")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, 0 for a single value."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return fmean(values), error

"""Does SPIN go on where supervised training has converged? On the demo's small world, without any judge.

M1 is the demo's small Llama, trained on 600 good answers (or 200, which leave more to learn) until the
likelihood of good answers to other prompts is best. From M1, SPIN with the published recipe: four iterations,
the answers of the opponent before mixed in, RMSProp, batches of 64, 2 epochs of 600 answers (6 of 200, about,
as the authors' code has it), lambda 0.1 and 5 at last. Against it supervised training that goes on: the same
answers, optimizer, schedule, batch and number of updates. Each at the best of three learning rates of its
own (the three: after a pilot on seed 0), by the mean final score over the seeds: chosen on the prompts shown.

What it can tell is limited: with 600 answers M1 is all but perfect, and with 200 its score still rises under
supervised training after the likelihood of other answers has begun to fall.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import TOKEN_BUDGET, Curve, curves_svg, good_answers, measure, write_rows

from self_rewarding_lm_pytorch import load_checkpoint, run
from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.demo.plan import ANSWER_TOKENS, OPTIMIZER, demo_codec, small_llama
from self_rewarding_lm_pytorch.demo.world import World
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.progress import Reporter

PICTURE = Path(__file__).parents[1] / "docs" / "spin_against_sft.svg"
RATES = {"spin": (1e-5, 6e-5, 3e-4), "sft": (6e-5, 3e-4, 1.5e-3)}  # at the peak of iterations 0 and 1
FALL = (1.0, 1.0, 0.2, 0.2)  # of the peak, as the paper's 5e-7 falls to 1e-7
LAMBDA = (0.1, 0.1, 0.1, 5.0)
BATCH = 64
QUIET = Reporter(quiet=True)


@dataclass(frozen=True)
class Size:
    """How much work; `updates` are those of 2 epochs over n pairs, then over 2n."""

    answers: int
    m1_steps: int  # at which good answers to other prompts are likeliest
    held_out: int = 300
    updates: tuple[int, ...] = (20, 38, 38, 38)
    prompts: int | None = None


SIZES = (Size(answers=600, m1_steps=80), Size(answers=200, m1_steps=60))  # steps: chosen on seed 0
SMALL = Size(answers=64, m1_steps=4, held_out=8, updates=(2, 4, 4, 4), prompts=8)


@dataclass(frozen=True)
class Lab:
    """One seed: its world, its data and its M1, below one folder."""

    world: World
    folder: Path
    size: Size

    @property
    def data(self) -> str:
        prompts = self.world.train_prompts[: self.size.answers]
        return write_rows(self.folder / "answers.jsonl", good_answers(self.world, prompts, "good answers"))

    @property
    def held_out(self) -> str:
        prompts = self.world.train_prompts[self.size.answers :][: self.size.held_out]
        return write_rows(self.folder / "held-out.jsonl", good_answers(self.world, prompts, "held out"))

    def model(self, checkpoint: Path | None = None) -> Any:
        model = small_llama(self.world.seed)
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        return model

    def plan(self, name: str, model: Any, stages: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "model": model,
            "tokenizer": demo_codec(),
            "seed": self.world.seed,
            "run": self.folder / name,
            "generation": {"token_budget": TOKEN_BUDGET, "shard_size": 300},
            "stages": stages,
        }

    def measured(self, model: Any) -> dict[str, float]:
        return measure(policy_for(model), demo_codec(), self.world, prompts=self.size.prompts)

    @property
    def m1(self) -> Path:
        return self.folder / "M1" / "stages" / "01-M1"

    def train_m1(self) -> dict[str, Any]:
        """M1 and the negative log-likelihood per token of good answers to other prompts on the way."""
        stage = {
            "name": "M1",
            "kind": "sft",
            "data": self.data,
            "valid_data": self.held_out,
            "validate_every": 10,
            "num_steps": self.size.m1_steps,
            "batch_size": 60,
            "learning_rate": 2e-3,
            "warmup_fraction": 0.1,
            **OPTIMIZER,
        }
        model = self.model()
        run(self.plan("M1", model, [stage]), reporter=QUIET)
        lines = map(json.loads, (self.folder / "M1" / "metrics.jsonl").read_text().splitlines())
        nll = {line["step"]: line["valid_loss"] for line in lines if "valid_loss" in line}
        return {**self.measured(model), "held_out_nll": nll}

    def spin(self, rate: float) -> list[dict[str, float]]:
        """One stage of four iterations; the weights at the end of each are measured."""
        own = [
            {"learning_rate": rate * fall, "beta": beta, "num_steps": steps, "checkpoint_every": steps}
            for fall, beta, steps in zip(FALL, LAMBDA, self.size.updates, strict=True)
        ]
        stage = {
            "kind": "spin",
            "preset": "paper",
            "data": self.data,
            "opponent": {"max_new_tokens": ANSWER_TOKENS},
            "per_iteration": own,
            "batch_size": BATCH,
        }
        name = f"spin-{rate:g}"
        run(self.plan(name, self.model(self.m1), [stage]), reporter=QUIET)
        folder = self.folder / name / "stages" / "01-spin"
        names = ["steps", *(f"steps-iteration-{i}" for i in range(2, len(own) + 1))]
        ends = [folder / n / f"{steps:06d}" for n, steps in zip(names, self.size.updates, strict=True)]
        return [self.measured(self.model(end)) for end in ends]

    def sft(self, rate: float) -> list[dict[str, float]]:
        """A stage for each of SPIN's iterations, alike in everything but the loss and its opponent."""
        stages = [
            {
                "name": f"part {number}",
                "kind": "sft",
                "data": self.data,
                "num_steps": steps,
                "batch_size": BATCH,
                "learning_rate": rate * fall,
                "end_learning_rate": 0.0,
                "schedule": "linear",
                "warmup_fraction": 0.1,
                "optimizer": "rmsprop",
                "dropout": None,
            }
            for number, (steps, fall) in enumerate(zip(self.size.updates, FALL, strict=True), 1)
        ]
        plan = self.plan(f"sft-{rate:g}", self.model(self.m1), stages)
        rows: list[dict[str, float]] = run(
            plan, reporter=QUIET, evaluate=lambda env, number: self.measured(env.policy.module)
        )["evaluation"]
        return rows


def experiment(seeds: int, rates: dict[str, tuple[float, ...]], size: Size, folder: Path) -> dict[str, Any]:
    """All numbers: M1 of each seed, and for each arm and rate the rows of each seed, M1's the first."""
    labs = [Lab(World(seed), folder / f"seed-{seed}", size) for seed in range(seeds)]
    m1 = [said(f"M1, seed {lab.world.seed}", [lab.train_m1()])[0] for lab in labs]
    start = [{figure: row[figure] for figure in ("score", "perfect")} for row in m1]
    arms: dict[str, Any] = {}
    for arm, rate in ((arm, rate) for arm, own in rates.items() for rate in own):
        runs = [said(f"{arm} {rate:g}, seed {lab.world.seed}", getattr(lab, arm)(rate)) for lab in labs]
        arms.setdefault(arm, {})[f"{rate:g}"] = [
            [first, *rows] for first, rows in zip(start, runs, strict=True)
        ]
    best = {
        arm: max(runs, key=lambda rate, runs=runs: _means(runs[rate], "score")[-1])
        for arm, runs in arms.items()
    }
    updates = [sum(size.updates[:part]) for part in range(len(size.updates) + 1)]
    return {"updates": updates, "m1": m1, "arms": arms, "best": best}


def said(what: str, rows: list[dict[str, float]]) -> list[dict[str, float]]:
    print(f"{what}: " + " ".join(f"{row['score']:.3f}" for row in rows), flush=True)
    return rows


def _means(runs: list[list[dict[str, float]]], figure: str) -> list[float]:
    return [fmean(row[figure] for row in rows) for rows in zip(*runs, strict=True)]


def table(found: dict[str, Any]) -> str:
    """In Markdown: means over the seeds, score and share perfect, after each number of updates."""
    heads = [f"{updates} updates" for updates in found["updates"]]
    lines = ["| arm | peak rate | " + " | ".join(heads) + " |", "|---|---:|" + "---:|" * len(heads)]
    for arm, rates in found["arms"].items():
        for rate, runs in rates.items():
            figures = zip(_means(runs, "score"), _means(runs, "perfect"), strict=True)
            cells = " | ".join(f"{score:.3f} ({perfect:.1%})" for score, perfect in figures)
            mark = " (best)" if rate == found["best"][arm] else ""
            lines.append(f"| {arm} | {rate}{mark} | {cells} |")
    return "\n".join(lines)


def picture(found: dict[str, Any], path: Path) -> None:
    """Each arm at its best rate, a panel for each M1."""
    looks = {"spin": ("SPIN", "#3d85c6"), "sft": ("SFT goes on", "#d9822b")}
    panels = {}
    for name, numbers in found.items():
        best = {arm: numbers["arms"][arm][rate] for arm, rate in numbers["best"].items()}
        panels[f"true score (points of 5), {name}"] = [
            Curve(*looks[arm], numbers["updates"], [[row["score"] for row in rows] for rows in runs])
            for arm, runs in best.items()
        ]
    curves_svg(path, panels, xlabel="optimizer updates after M1")


def main() -> None:
    parser = argparse.ArgumentParser(description="SPIN against supervised training that goes on")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="file for the curves")
    parser.add_argument("--folder", type=Path, default=Path("runs/spin_against_sft"), help="the runs")
    parser.add_argument("--answers", type=int, action="append", help="only the M1 of so many answers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, action="append", help="only this learning rate")
    parser.add_argument("--small", action="store_true", help="little work, no picture: only a check")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rates = {arm: tuple(chosen.rate or own) for arm, own in RATES.items()}
    sizes = [SMALL] if chosen.small else [s for s in SIZES if s.answers in (chosen.answers or [s.answers])]
    found = {}
    for size in sizes:
        name = f"{size.answers} answers"
        found[name] = experiment(chosen.seeds, rates, size, chosen.folder / name)
        print(f"\nM1 from {name}\n\n{table(found[name])}\n", flush=True)
    if chosen.json is not None:
        write_json(chosen.json, found)
    print(json.dumps(found))
    if not chosen.small:
        picture(found, chosen.picture)


if __name__ == "__main__":
    main()

"""Small runs that hold every kind of work: seconds long, with units of milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.helpers import Recurrent, byte_codec

ITEMS = [{"prompt": f"q{i}?", "response": f"yes {i}"} for i in range(8)]
PAIRS = [{"prompt": f"q{i}?", "chosen": f"yes {i}", "rejected": "no"} for i in range(8)]
PROMPTS = [f"what of {word}?" for word in ("sun", "sea", "sky", "oak", "fox", "owl", "elm", "bee")]
JUDGED = [
    {"prompt": f"q{i}?", "responses": [f"yes {i}", "no", "so"], "scores": [5, 3, 1 + i % 2]} for i in range(4)
]
JUDGE = {
    "template": "p {{ prompt }} r {{ response }}",
    "votes": 2,
    "unparsed": "force",
    "max_new_tokens": 8,
}
ANSWERS = {"temperature": 1.0, "max_new_tokens": 10}
REWARD = "tests.reliability.worlds:reward"


def never(scores: list[float]) -> bool:
    """An early stopper that goes on to the end, so that there is much to be killed in."""
    return False


SEED = {
    "name": "seed",
    "kind": "sft",
    "data": ITEMS,
    "train": {"num_steps": 6, "warmup_steps": 3, "batch_size": 4, "learning_rate": 1e-2, "log_every": 1},
}
OWN = {
    "name": "own",
    "kind": "self_reward",
    "prompts": PROMPTS,
    "num_pairs": 6,
    "candidates": {"num": 3, **ANSWERS},
    "judge": JUDGE,
    "replay": ITEMS,
    "train": {
        "epochs": 2,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "dropout": 0.2,
        "replay_batch_size": 2,
        "log_every": 2,
    },
}
_GIVEN = {"kind": "dpo", "data": PAIRS}
_CHECKED = {
    "num_steps": 8,
    "batch_size": 2,
    "learning_rate": 1e-2,
    "early_stop_every": 2,
    "log_every": 3,
}
SCORED = {
    **_GIVEN,
    "name": "scored",
    "train": {**_CHECKED, "early_stop_kwargs": {"calculate_should_stop": never}},
    "early_stopper": "tests.reliability.worlds:score",
}
AGAINST = {
    **_GIVEN,
    "name": "against",
    "train": {**_CHECKED, "reference": "ema", "reference_ema_decay": 0.9},
    "early_stopper": {"kind": "win_rate", "prompts": PROMPTS, "reward": REWARD, **ANSWERS},
}
PLAY = {
    "name": "play",
    "kind": "spin",
    "data": ITEMS,
    "num_iterations": 2,
    "opponent": ANSWERS,
    "train": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "log_every": 1},
}
LIVE = {
    "name": "live",
    "kind": "online",
    "prompts": PROMPTS,
    "sample_every": 2,
    "candidates": {"num": 2, **ANSWERS},
    "reward": REWARD,
    "train": {"batch_size": 2, "num_steps": 8, "learning_rate": 1e-2, "log_every": 3},
}
BIG = {"kind": "sft", "data": ITEMS, "train": {"num_steps": 4, "batch_size": 4, "learning_rate": 1e-3}}

WORLDS: dict[str, dict[str, Any]] = {
    "judged": {"stages": [SEED, OWN], "report_card": {"data": JUDGED, "judge": JUDGE}},
    "checked": {"stages": [SEED, SCORED, AGAINST]},
    "play": {"stages": [PLAY]},
    "live": {"stages": [LIVE]},
    # Weights and optimizer state of some 20 MB, so that writing them takes a while.
    "big": {
        "model": "tests.reliability.worlds:big",
        "stages": [{"name": "one", **BIG}, {"name": "two", **BIG}],
    },
}


def plan(world: str, folder: Path) -> dict[str, Any]:
    """A world's plan, its training states saved after every step."""
    shared = {
        "model": "tests.reliability.worlds:small",
        "run": str(folder),
        "seed": 3,
        "generation": {"shard_size": 2},
        "save_every_seconds": 0,
    }
    return {**shared, **WORLDS[world]}


def small() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return Recurrent(vocab=256, size=128, dropout=0.1), byte_codec()


def big() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return Recurrent(vocab=256, size=512, dropout=0.1), byte_codec()


def reward(prompts: list[str], responses: list[str]) -> list[float]:
    """Something that differs between random responses."""
    return [float(sum(map(ord, text)) % 7) for text in responses]


def score(module: nn.Module) -> float:
    """Some figure of a model, many forward passes long; it rises and falls."""
    ids = torch.arange(2, 258).remainder(256).reshape(8, 32)
    with torch.no_grad():
        total = sum(float(module(ids.roll(shift, dims=1)).logsumexp(-1).mean()) for shift in range(10))
    return total % 0.01

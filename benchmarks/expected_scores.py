"""Sampled votes against expected scores, on a finished demo run: do they agree, and what does each cost?

self-rewarding-lm demo && python benchmarks/expected_scores.py runs/demo
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from scipy.stats import spearmanr

from self_rewarding_lm_pytorch.demo.plan import JUDGMENT_TOKENS, demo_codec, judge_settings, small_llama
from self_rewarding_lm_pytorch.demo.world import World
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings

EXPECTED = {"template": judge_settings()["template"], "mode": "expected"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="the demo's")
    arguments = parser.parse_args()
    world, codec = World(arguments.seed), demo_codec()
    shown = [
        (
            Prompt(i, item.prompt, codec.prompt_ids(item.prompt)),
            Candidate(i, 0, 0, (), item.answer, "eos", 0, ""),
        )
        for i, item in enumerate(world.judged_set)
    ]
    labels = [item.score for item in world.judged_set]
    for folder in sorted((arguments.run / "stages").iterdir()):
        policy = policy_for(small_llama(arguments.seed))
        policy.restore(folder / "checkpoint")
        env = Environment(policy, codec, arguments.seed, Accelerator(cpu=True), Reporter())
        sampled, votes_seconds = judged(env, judge_settings(), shown)
        expected, expected_seconds = judged(env, EXPECTED, shown)
        print(
            f"{folder.name}: Spearman with the truth {rank(sampled, labels):.3f} sampled, "
            f"{rank(expected, labels):.3f} expected; with each other {rank(sampled, expected):.3f}; "
            f"distinct scores {len(set(sampled))} and {len(set(expected))}; seconds {votes_seconds:.2f} "
            f"and {expected_seconds:.2f} ({votes_seconds / expected_seconds:.1f}x)"
        )


def judged(env: Environment, settings: dict[str, Any], shown: list[Any]) -> tuple[list[float | None], float]:
    judge = JudgeSettings.model_validate(settings).build(env, "comparison", budget=JUDGMENT_TOKENS, seed=(0,))
    judge.judge(shown[:8])
    start = time.perf_counter()
    judgments = judge.judge(shown)
    return [judgment.score for judgment in judgments], time.perf_counter() - start


def rank(ours: list[Any], others: list[Any]) -> float:
    pairs = [(a, b) for a, b in zip(ours, others, strict=True) if a is not None and b is not None]
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


if __name__ == "__main__":
    main()

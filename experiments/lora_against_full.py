"""Does LoRA reach the full fine-tune's reward in the external-reward stage?

The stories example on a small real Llama (examples/stories.yaml, reward.py beside it). The model is first
fine-tuned to write a few sentences and stop, once. From there each arm trains by DPO on the best and the
worst of 4 own samples by the story reward: the same prompts, samples, steps, schedule, replay and random
numbers. Each pair is trained on once: a second epoch over half as many is learned by heart (accuracy 0.99).
One arm trains all weights, the other an adapter of r 16, alpha 32 on all linear layers, the output's too.
Learning rates are chosen for each arm on two seeds that are not reported, by the reward on openings that it
trained on. Reported is the mean reward on held-out openings, which chose nothing, for each seed, and its
standard error over the seeds.

    python experiments/lora_against_full.py --model FOLDER_OF_STORIES260K

Finished runs are kept, so a second call goes on. About 70 minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from self_rewarding_lm_pytorch import run
from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.judges.function import load_reward_function
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Prompt

STORIES = Path(__file__).resolve().parents[1] / "examples" / "stories"
REWARD = f"{STORIES / 'reward.py'}:story_reward"
RATES = {"full": (2e-4, 4e-4, 8e-4, 1.6e-3), "lora": (1e-3, 2e-3, 4e-3, 8e-3)}
TARGETS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,lm_head"
SWEEP_SEEDS = (1_000, 1_001)  # rates are chosen here
NUM_PAIRS = 1_200  # two visits to each prompt
SAMPLES = {"temperature": 0.7, "top_p": None, "max_new_tokens": 96}


class Lab:
    """The runs below one folder."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.folder, self.is_small = chosen.folder.resolve(), chosen.small  # plans name models by it
        self.adapter: dict[str, Any] = {"r": chosen.r, "alpha": chosen.alpha}
        self.adapter["target_modules"] = chosen.targets.split(",")
        self._start = self._shortened(chosen.model)

    def _shortened(self, model: str) -> str:
        """The model that writes a few sentences: what both arms start from."""
        stage = {"name": "shorten", "kind": "sft", "data": str(STORIES / "sft.jsonl"), "epochs": 5}
        stage |= {"batch_size": 16, "learning_rate": 3e-4, "warmup_steps": 10, "dropout": 0.0}
        if self.is_small:
            stage |= {"num_steps": 2}
        return self._run("shortened", stage, model=model)

    def trained(self, arm: str, rate: float, seed: int) -> str:
        """The checkpoint of one arm's external-reward stage."""
        stage = {
            "name": "story-reward",
            "kind": "external_reward",
            "prompts": str(STORIES / "prompts.jsonl"),
            "reward": REWARD,
            "candidates": {"num": 4, **SAMPLES},
            "replay": str(STORIES / "sft.jsonl"),
            "num_pairs": NUM_PAIRS,
            **{"epochs": 1, "batch_size": 16, "replay_batch_size": 16, "dropout": 0.0},
            **{"beta": 0.1, "nll_weight": 0.2, "learning_rate": rate},
        }
        if self.is_small:
            stage |= {"num_pairs": 16}
            stage["candidates"] = {"num": 2, **SAMPLES, "max_new_tokens": 16}
        adapter = {"adapter": self.adapter} if arm == "lora" else {}
        name = "-".join([f"lora-r{self.adapter['r']}", *self.adapter["target_modules"]]) if adapter else arm
        return self._run(f"{name}-{rate:g}-seed-{seed}", stage, model=self._start, seed=seed, **adapter)

    def _run(self, name: str, stage: dict[str, Any], **plan: Any) -> str:
        place = self.folder / name
        summary = run({**plan, "run": place, "stages": [stage]}, reporter=Reporter(quiet=True))
        return str(place / summary["stages"][0]["checkpoint"])

    def reward(self, checkpoint: str, openings: str) -> float:
        """Mean reward of 8 samples for each of at most 200 openings; all models draw the same numbers."""
        policy, codec = load_policy(checkpoint)
        assert codec is not None, f"{checkpoint} has no tokenizer"
        rows = list(read_rows(STORIES / openings))[: 8 if self.is_small else 200]
        prompts = [Prompt(i, row["prompt"], codec.prompt_ids(row["prompt"])) for i, row in enumerate(rows)]
        sampler = CandidateSampler(
            PolicyGenerator(policy, codec.eos_ids),
            codec,
            num=2 if self.is_small else 8,
            sampling=Sampling(temperature=0.7, filter_fn=None),
            max_new_tokens=16 if self.is_small else 96,
            max_seq_len=None,
            policy_name="measured",
            seed=("held-out",),
        )
        sampled = sampler.sample([(prompt, 0) for prompt in prompts])
        own = [(p.text, one.text) for p, several in zip(prompts, sampled, strict=True) for one in several]
        return fmean(load_reward_function(REWARD)([p for p, _ in own], [text for _, text in own]))


def experiment(lab: Lab, rates: dict[str, Sequence[float]], num_seeds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"sweep": {}, "rate": {}, "reward": {arm: [] for arm in rates}}
    for arm, tried in rates.items():
        sweep = {}
        for rate in tried if len(tried) > 1 else ():
            sweep[rate] = fmean(
                lab.reward(lab.trained(arm, rate, seed), "prompts.jsonl") for seed in SWEEP_SEEDS
            )
            print(f"sweep, {arm} at {rate:g}: reward {sweep[rate]:.4f}", flush=True)
        found["sweep"][arm] = sweep
        found["rate"][arm] = max(sweep, key=lambda rate: sweep[rate]) if sweep else tried[0]
    for seed in range(num_seeds):
        for arm in rates:
            reward = lab.reward(lab.trained(arm, found["rate"][arm], seed), "heldout.jsonl")
            found["reward"][arm].append(reward)
            print(f"seed {seed}, {arm}: reward {reward:.4f}", flush=True)
        print(table(found), flush=True)
    return found


def table(found: dict[str, Any]) -> str:
    """Of the seeds so far: means with standard errors over the seeds, and the arms' difference by seed."""
    rewards = found["reward"]
    lines = ["| arm | learning rate | held-out reward | seeds |", "|---|---|---|---|"]
    for arm, values in rewards.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {arm} | {found['rate'][arm]:g} | {_shown(values)} | {each} |")
    if {"full", "lora"} <= rewards.keys():
        gaps = [lora - full for lora, full in zip(rewards["lora"], rewards["full"], strict=True)]
        lines.append(f"LoRA - full, by seed: {_shown(gaps, sign='+')}")
    return "\n".join(lines)


def _shown(values: Sequence[float], sign: str = "") -> str:
    error = f"{stdev(values) / len(values) ** 0.5:.4f}" if len(values) > 1 else "one seed"
    return f"{fmean(values):{sign}.4f} ± {error}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="stories260K: a folder or a hub name")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, action="append", help="LoRA's learning rate; several: a sweep")
    parser.add_argument("--full-rate", type=float, action="append", help="the same of the full fine-tune")
    parser.add_argument("--r", type=int, default=16)
    parser.add_argument("--alpha", type=float, default=32)
    parser.add_argument("--targets", default=TARGETS, help="LoRA's layers, comma-separated")
    parser.add_argument("--folder", type=Path, default=Path("runs/lora_against_full"), help="the runs")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--small", action="store_true", help="little work: only a check")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rates = {"full": chosen.full_rate or RATES["full"], "lora": chosen.rate or RATES["lora"]}
    found = experiment(Lab(chosen), rates, chosen.seeds)
    if chosen.json is not None:
        write_json(chosen.json, found)


if __name__ == "__main__":
    sys.exit(main())

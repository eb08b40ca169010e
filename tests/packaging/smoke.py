"""What an installed package does for somebody who has nothing else of it. Run by path in an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import self_rewarding_lm_pytorch
from self_rewarding_lm_pytorch import ExternalRewardDPOConfig, SelfRewardingTrainer, create_mock_dataset

COMMAND = Path(sys.executable).with_name("self-rewarding-lm")


class Tiny(nn.Module):
    """A plain causal module: ids (B, T) -> logits (B, T, V)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 8)
        self.cell = nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(8, 256)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.cell(self.embed(ids))[0])


def says(*arguments: str) -> str:
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: {done.stdout} {done.stderr}"
    return done.stdout


def main() -> None:
    installed = Path(self_rewarding_lm_pytorch.__file__).resolve()
    assert Path(sys.prefix).resolve() in installed.parents, f"{installed} is not this environment's"
    assert (installed.parent / "py.typed").is_file()
    assert says("--version").strip() == self_rewarding_lm_pytorch.__version__
    says("init", "--recipe", "starter", "--out", "starter.yaml")
    Path("items.jsonl").write_text('{"prompt": "why?", "response": "so"}\n' * 4)
    Path("prompts.jsonl").write_text('{"prompt": "why?"}\n' * 4)
    stages = [
        {"name": "seed", "kind": "sft", "data": "items.jsonl"},
        {"name": "own", "kind": "self_reward", "prompts": "prompts.jsonl", "judge": {"template": "additive"}},
    ]
    Path("plan.yaml").write_text(json.dumps({"model": "any", "stages": stages}))  # JSON is YAML
    assert "self_reward" in says("plan", "plan.yaml")
    SelfRewardingTrainer(
        Tiny(),
        finetune_configs=[
            ExternalRewardDPOConfig(
                reward_model=lambda ids: ids.float().mean(dim=-1),
                prompt_dataset=create_mock_dataset(8, lambda: "why?"),
                num_generated_preference_pairs=4,
                num_train_steps=2,
                max_seq_len=12,
            )
        ],
        tokenizer_encode=lambda text: torch.tensor([ord(char) for char in text]),
        tokenizer_decode=lambda ids: "".join(map(chr, ids)),
    )()
    summary = json.loads(Path("checkpoints/summary.json").read_text())
    assert summary["status"] == "completed", summary
    says("report", "checkpoints")
    assert "<script" in Path("checkpoints/report.html").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
    print("all of it works")

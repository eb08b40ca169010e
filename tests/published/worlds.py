"""Small runs through the published interface: tiny real models, a byte codec, and what a run left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from x_transformers import Decoder, TransformerWrapper

from self_rewarding_lm_pytorch import (
    ExternalRewardDPOConfig,
    RewardConfig,
    SelfRewardDPOConfig,
    SelfRewardingTrainer,
    create_mock_dataset,
)
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair

MARKER = "\x01"  # the judge answers after it
CPU = {"cpu": True}


def tiny(max_seq_len: int = 64, *, seed: int = 0, dim: int = 16) -> TransformerWrapper:
    """An x-transformers model over bytes."""
    torch.manual_seed(seed)
    layers = Decoder(dim=dim, depth=1, heads=2, attn_dim_head=8)
    return TransformerWrapper(num_tokens=256, max_seq_len=max_seq_len, attn_layers=layers)


def encode(text: str) -> Tensor:
    return torch.tensor([ord(char) for char in text])


def decode(ids: Tensor) -> str:
    return "".join(chr(int(token)) for token in ids)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    return torch.equal(weights(model), weights(other))


def rows(count: int, length: int = 10, *, seed: int = 0, high: int = 256) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, high, (length,), generator=generator) for _ in range(count)]


def sft_items(count: int, length: int = 10, prompt: int = 3, *, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return [(row, torch.tensor(prompt)) for row in rows(count, length, seed=seed)]


def pair_items(count: int, length: int = 8, prompt: int = 2) -> list[tuple[Tensor, Tensor, Tensor]]:
    both = zip(rows(count, length, seed=1), rows(count, length + 2, seed=2), strict=True)
    return [(chosen, rejected, torch.tensor(prompt)) for chosen, rejected in both]


def prompts(count: int = 4) -> Any:
    return create_mock_dataset(count, "ab")


def mean_of_response(ids: Tensor) -> Tensor:
    """A reward over ids: (batch, length) -> (batch,). The prompt is two bytes."""
    return ids[:, 2:].float().mean(dim=1)


class ParityJudge(nn.Module):
    """Writes `Score: 4` after a response whose last byte is odd, `Score: 1` after an even one."""

    def __init__(self) -> None:
        super().__init__()
        self.certainty = nn.Parameter(torch.tensor(60.0))

    def forward(self, ids: Tensor) -> Tensor:
        columns = torch.arange(ids.shape[1]).expand_as(ids)
        last = torch.where(ids == 1, columns, -1).cummax(dim=1).values
        before = ids.gather(1, (last - 1).clamp(min=0))
        digit = torch.where(before % 2 == 1, ord("4"), ord("1"))
        text = torch.tensor([ord(char) for char in "Score: 0\0"])
        place = (columns - last).clamp(min=0, max=len(text) - 1)
        written = torch.where(place == 7, digit, text[place])
        return self.certainty * nn.functional.one_hot(written, 256)


def said_by_parity_judge(candidate: Candidate) -> float:
    return 4.0 if candidate.ids[-1] % 2 else 1.0


def shown_whole() -> RewardConfig:
    """The judge reads prompt and response and then the marker; it answers `Score: N`."""
    return RewardConfig(prompt_template="{{ prompt }}{{ response }}" + MARKER)


@dataclass
class Records:
    """What one stage stored."""

    candidates: list[Candidate]
    judgments: list[Judgment]
    pairs: list[PreferencePair]

    def of(self, prompt_index: int, visit: int) -> list[Candidate]:
        return [c for c in self.candidates if (c.prompt_index, c.visit) == (prompt_index, visit)]

    def visits(self) -> list[tuple[int, int]]:
        return sorted({(c.prompt_index, c.visit) for c in self.candidates})


def records(folder: Path, stage: str) -> Records:
    store = ShardStore(folder / "stages" / stage)
    return Records(store.read_all(Candidate), store.read_all(Judgment), store.read_all(PreferencePair))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


@dataclass
class Ran:
    """A finished run."""

    model: nn.Module
    folder: Path
    summary: dict[str, Any]

    @property
    def stage(self) -> Any:
        return self.summary["stages"][-1]

    def records(self, stage: str = "01-external_reward") -> Records:
        return records(self.folder, stage)


def trainer(model: nn.Module, configs: Any, folder: Path, **arguments: Any) -> SelfRewardingTrainer:
    given = {"tokenizer_encode": encode, "tokenizer_decode": decode, "accelerate_kwargs": CPU, **arguments}
    return SelfRewardingTrainer(model, finetune_configs=configs, checkpoints_folder=folder, **given)


def run(model: nn.Module, configs: Sequence[Any], folder: Path, **arguments: Any) -> Ran:
    done = trainer(model, configs, folder, **arguments)(overwrite_checkpoints=True)
    return Ran(model, folder, done)


def external(reward: Callable[..., Any] = mean_of_response, **arguments: Any) -> ExternalRewardDPOConfig:
    """2 pairs from 2 visits, responses of 4 bytes, one step."""
    given: dict[str, Any] = {
        "prompt_dataset": prompts(),
        "num_generated_preference_pairs": 2,
        "num_train_steps": 1,
        "max_seq_len": 6,
        "reward_generator_kwargs": {"batch_size": 2},
        **arguments,
    }
    return ExternalRewardDPOConfig(reward_model=reward, **given)


def self_reward(judge: nn.Module | None = None, **arguments: Any) -> SelfRewardDPOConfig:
    """The same with a judge that answers at once; `None` is the policy itself."""
    given: dict[str, Any] = {
        "prompt_dataset": prompts(),
        "num_generated_preference_pairs": 2,
        "num_train_steps": 1,
        "max_seq_len": 6,
        "rewarding_model": judge,
        "reward_generator_kwargs": {"batch_size": 2, "generate_reward_max_seq_len": 8},
        **arguments,
    }
    return SelfRewardDPOConfig(**given)

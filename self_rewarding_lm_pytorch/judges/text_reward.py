"""A reward model with a tokenizer of its own: it reads what the policy's ids say, not the ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from self_rewarding_lm_pytorch.judges.base import OnProgress
from self_rewarding_lm_pytorch.judges.reward_model import RewardModelJudge
from self_rewarding_lm_pytorch.models.load import load_reward_model
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt
from self_rewarding_lm_pytorch.text import Codec, source_of


class TextRewardJudge:
    """Prompt and response through the reward model's codec, chat template included, to one number."""

    num_votes = 0

    def __init__(self, module: nn.Module, codec: Codec, *, device: torch.device | None = None) -> None:
        self._codec = codec
        self._judge = RewardModelJudge(module, device=device)

    @classmethod
    def load(cls, source: str, *, device: torch.device | None = None) -> TextRewardJudge:
        """Of a folder or hub name. Raises ConfigError where it is no reward model."""
        module, codec = load_reward_model(source)
        return cls(module.to(device or torch.device("cpu")), codec, device=device)

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        return self._judge.judge([self._read(*each) for each in shown], on_progress=on_progress)

    def _read(self, prompt: Prompt, candidate: Candidate) -> tuple[Prompt, Candidate]:
        asked = source_of(prompt)
        ids = self._codec.response_ids(asked, candidate.text)
        return replace(prompt, ids=self._codec.prompt_ids(asked)), replace(candidate, ids=ids)

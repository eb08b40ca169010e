"""Where reference log-probs come from: computed once and stored, or asked of a live model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from ema_pytorch import EMA
from torch import Tensor

from self_rewarding_lm_pytorch.data.collate import collate_pairs
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs, side_logprobs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import PairBatch, PairExample
from self_rewarding_lm_pytorch.training.batching import micro_batches


class StoredReference:
    """Log-probs of a frozen reference, looked up by each pair's index. No second model is held."""

    def __init__(self, chosen: Tensor, rejected: Tensor) -> None:
        self._chosen = chosen  # float (num_pairs,), on the CPU
        self._rejected = rejected

    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        return self._chosen[batch.index], self._rejected[batch.index]

    @classmethod
    def none(cls, num_pairs: int) -> StoredReference:
        """For losses without a reference: rewards are then the policy's own log-probs."""
        return cls(torch.zeros(num_pairs), torch.zeros(num_pairs))

    @classmethod
    def from_policy(
        cls,
        policy: Policy,
        pairs: Sequence[PairExample],
        *,
        micro_batch_size: int,
        max_tokens: int | None = None,
        ld_alpha: float = 1.0,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> StoredReference:
        """The policy as it is now (dropout off) becomes the reference; pairs' indices are 0..n-1."""
        chosen, rejected = torch.zeros(len(pairs)), torch.zeros(len(pairs))
        with policy.evaluating():
            for micro in micro_batches(pairs, micro_batch_size, max_tokens):
                batch = collate_pairs(micro, fork_width=policy.fork_width, ld_alpha=ld_alpha).to(
                    policy.device
                )
                sides = side_logprobs(partial(sequence_logprobs, policy), batch)
                chosen[batch.index], rejected[batch.index] = (side.float().cpu() for side in sides)
                on_progress(len(micro))
        return cls(chosen, rejected)


class LiveReference:
    """Log-probs asked of a frozen model at each batch."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        with self.policy.evaluating():
            return side_logprobs(partial(sequence_logprobs, self.policy), batch)


class EMAReference(LiveReference):
    """A reference that follows the policy: after each step r <- decay r + (1 - decay) p."""

    def __init__(self, policy: Policy, decay: float) -> None:
        super().__init__(policy.copy())
        self._ema = EMA(
            policy.module,
            ema_model=self.policy.module,
            beta=decay,
            include_online_model=False,
        )
        self._online = policy.module
        self._decay = decay

    def update(self, step: int = 0) -> None:
        # Not `EMA.update`, whose warm-up would use another decay than the one asked for.
        self._ema.update_moving_average(self.policy.module, self._online, self._decay)

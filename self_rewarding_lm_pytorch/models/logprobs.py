"""THE shift: the one place that turns token ids and a target mask into target log-probs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import SequenceBatch

DEFAULT_CHUNK = 2048
"""Targets whose logits are held at once, so that (B, T, V) never exists where the head is split."""


def target_logprobs(
    policy: Policy, batch: SequenceBatch, *, chunk_size: int = DEFAULT_CHUNK
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target token given everything before it.

    Returns (logprobs float32 (M,), rows int64 (M,)), in row-major order; M = batch.num_targets.
    The log-softmax is at least float32, whatever the model computes in.
    """
    if bool(batch.is_target[:, 0].any()):
        raise ValueError("position 0 cannot be a target: nothing stands before it")
    with policy.autocast():  # the policy and its reference alike
        return _target_logprobs(policy, batch, chunk_size)


def _target_logprobs(policy: Policy, batch: SequenceBatch, chunk_size: int) -> tuple[Tensor, Tensor]:
    rows, columns = batch.is_target.nonzero(as_tuple=True)
    features = policy.features(batch.ids)[rows, columns - 1]  # position t - 1 predicts token t
    targets = batch.ids[rows, columns]
    if len(rows) <= chunk_size:
        return _logprobs(policy, features, targets), rows
    chunks = zip(features.split(chunk_size), targets.split(chunk_size), strict=True)
    parts = [_chunk_logprobs(policy, *chunk) for chunk in chunks]
    return torch.cat(parts), rows


def sequence_logprobs(policy: Policy, batch: SequenceBatch, *, chunk_size: int = DEFAULT_CHUNK) -> Tensor:
    """Sum of each row's target log-probs, float32 (B,). A row without targets has 0."""
    logprobs, rows = target_logprobs(policy, batch, chunk_size=chunk_size)
    sums = torch.zeros(len(batch.ids), dtype=logprobs.dtype, device=logprobs.device)
    return sums.index_add(0, rows, logprobs)


class SequenceLogProbs(nn.Module):
    """`sequence_logprobs` as a module, so that wrappers which hook `forward` (DDP) see the call."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.module = policy.module
        self._policy = policy

    def forward(self, ids: Tensor, is_target: Tensor, lengths: Tensor) -> Tensor:
        return sequence_logprobs(self._policy, SequenceBatch(ids, is_target, lengths))


def _logprobs(policy: Policy, features: Tensor, targets: Tensor) -> Tensor:
    logits = policy.head(features)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(dim=-1)


def _chunk_logprobs(policy: Policy, features: Tensor, targets: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return _logprobs(policy, features, targets)
    # The chunk's logits are thrown away and made again in the backward pass.
    out: Tensor = checkpoint(_logprobs, policy, features, targets, use_reentrant=False)
    return out

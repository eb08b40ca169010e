"""THE shift: the one place that turns token ids and a target mask into target log-probs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import ForkedBatch, PairBatch, SequenceBatch

LogProbs = Callable[[SequenceBatch | ForkedBatch], Tensor]
"""Sum of the target log-probs of each sequence."""

CHUNK_ELEMENTS = 2**24
"""Logits held at once, so that (B, T, V) never exists where the head is split: 64 MiB in float32."""


def target_logprobs(
    policy: Policy, batch: SequenceBatch | ForkedBatch, *, chunk_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target token given everything before it.

    Returns (logprobs float32 (M,), sequences int64 (M,)), M the number of targets; the sequences are the
    rows of a SequenceBatch, in row-major order, or those of a ForkedBatch. chunk_size: targets whose
    logits are held at once. The log-softmax is at least float32, whatever the model computes in.
    """
    with policy.autocast():  # the policy and its reference alike
        if isinstance(batch, ForkedBatch):
            features = policy.forked_features(batch.ids, batch.positions, batch.branches)
            features = features[batch.rows, batch.sources]
            return _chunked(policy, features, batch.targets, chunk_size), batch.sequences
        rows, columns = _places(batch)
        features = policy.features(batch.ids)[rows, columns - 1]  # position t - 1 predicts token t
        return _chunked(policy, features, batch.ids[rows, columns], chunk_size), rows


def _places(batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    """Rows and columns of the targets."""
    if batch.rows is not None and batch.columns is not None:
        return batch.rows, batch.columns
    if bool(batch.is_target[:, 0].any()):
        raise ValueError("position 0 cannot be a target: nothing stands before it")
    rows, columns = batch.is_target.nonzero(as_tuple=True)
    return rows, columns


def sequence_logprobs(
    policy: Policy, batch: SequenceBatch | ForkedBatch, *, chunk_size: int | None = None
) -> Tensor:
    """Weighted sum of each sequence's target log-probs, float32 (sequences,); 0 without targets."""
    logprobs, rows = target_logprobs(policy, batch, chunk_size=chunk_size)
    if batch.weights is not None:
        of_targets = batch.weights if isinstance(batch, ForkedBatch) else batch.weights[_places(batch)]
        logprobs = logprobs * of_targets
    count = len(batch.ids) * (2 if isinstance(batch, ForkedBatch) else 1)
    sums = torch.zeros(count, dtype=logprobs.dtype, device=logprobs.device)
    return sums.index_add(0, rows, logprobs)


def side_logprobs(logprobs: LogProbs, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Summed log-probs of chosen and rejected, (B,) each; from forked rows where the batch has them."""
    if batch.forked is not None:
        chosen, rejected = logprobs(batch.forked).chunk(2)
        return chosen, rejected
    return logprobs(batch.chosen), logprobs(batch.rejected)


class SequenceLogProbs(nn.Module):
    """`sequence_logprobs` as a module, so that wrappers which hook `forward` (DDP) see the call."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.module = policy.module
        self._policy = policy

    def forward(self, batch: SequenceBatch | ForkedBatch) -> Tensor:
        return sequence_logprobs(self._policy, batch)


def _chunked(policy: Policy, features: Tensor, targets: Tensor, chunk_size: int | None) -> Tensor:
    size = chunk_size or max(1, CHUNK_ELEMENTS // (policy.vocab_size or features.shape[-1]))
    if len(targets) <= size:
        return _logprobs(policy, features, targets)
    chunks = zip(features.split(size), targets.split(size), strict=True)
    return torch.cat([_chunk_logprobs(policy, *chunk) for chunk in chunks])


def _logprobs(policy: Policy, features: Tensor, targets: Tensor) -> Tensor:
    logits = policy.head(features)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def _chunk_logprobs(policy: Policy, features: Tensor, targets: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return _logprobs(policy, features, targets)
    # The chunk's logits are thrown away and made again in the backward pass.
    out: Tensor = checkpoint(_logprobs, policy, features, targets, use_reentrant=False)
    return out

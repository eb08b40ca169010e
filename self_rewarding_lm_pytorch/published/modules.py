"""DPO and SPIN as modules: two batches of ids in, a scalar mean loss out.

The one exception to "nothing is copied before its stage": the reference is a snapshot of the policy
taken when the module is constructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.data.collate import batch_from_padded
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs
from self_rewarding_lm_pytorch.published.arguments import beta_of, checked
from self_rewarding_lm_pytorch.records import PairBatch, PairLogProbs, SequenceBatch
from self_rewarding_lm_pytorch.training.reference import EMAReference


class PairModule(nn.Module):
    """A policy, its reference, and a pair loss with summed log-probs."""

    def __init__(
        self,
        model: nn.Module,
        loss: str,
        beta: float,
        pad_id: int | None,
        ref_model_ema_decay: float,
        ema_kwargs: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        checked("ema_kwargs", ema_kwargs or {}, ["beta"])
        self.beta = beta
        self.pad_id = pad_id
        self.policy = policy_for(model)
        self.policy_model = model
        self.ref_model_ema_decay = float((ema_kwargs or {}).get("beta", ref_model_ema_decay))
        self.reference = EMAReference(self.policy, self.ref_model_ema_decay)
        self.ref_model: nn.Module = self.reference.policy.module  # moves and is saved with the module
        self._loss = PREFERENCE_LOSSES[loss]

    def train(self, mode: bool = True) -> Self:
        """The reference stays in evaluation mode."""
        super().train(mode)
        self.ref_model.eval()
        return self

    def update_ema(self) -> None:
        """Moves the reference towards the policy by the EMA decay (1: not at all)."""
        self.reference.update()

    def update_reference_model_with_policy(self) -> None:
        """The policy as it is now becomes the reference."""
        self.ref_model.load_state_dict(self.policy_model.state_dict())

    def _mean_loss(self, chosen: SequenceBatch, rejected: SequenceBatch) -> Tensor:
        index = torch.zeros(len(chosen.ids), dtype=torch.int64)
        reference = self.reference(PairBatch(index, chosen, rejected))
        pair = PairLogProbs(
            sequence_logprobs(self.policy, chosen),
            sequence_logprobs(self.policy, rejected),
            *reference,
            chosen.is_target.sum(dim=1),
            rejected.is_target.sum(dim=1),
        )
        return self._loss(pair, self.beta).mean()

    def _batch(self, ids: Tensor, prompt_len: Tensor, mask: Tensor | None, name: str) -> SequenceBatch:
        """Rows as a batch; the caller's tensors are not written to."""
        real = self._real(ids, name) if mask is None else mask.bool()
        place = real.cumsum(dim=1) - 1  # position among the row's real tokens
        is_target = real & (place >= prompt_len.to(ids.device)[:, None])
        batch = batch_from_padded(ids.clamp(min=0), real, is_target)
        if bool((batch.is_target.sum(dim=1) == 0).any()):
            row = int((batch.is_target.sum(dim=1) == 0).nonzero()[0])
            raise DataError(
                f"{name}, row {row}: prompt_len {int(prompt_len[row])} leaves none of its "
                f"{int(batch.lengths[row])} tokens as a response"
            )
        return batch

    def _real(self, ids: Tensor, name: str) -> Tensor:
        if self.pad_id is None:
            if bool((ids < 0).any()):
                raise DataError(f"{name} holds negative ids but no pad_id was given; pass pad_id or a mask")
            return torch.ones_like(ids, dtype=torch.bool)
        if self.pad_id >= 0:
            raise DataError(
                f"pad_id {self.pad_id} could be a real token, so it cannot say where {name} ends; pass "
                f"{name}_mask (True on real tokens), or pad with a negative id"
            )
        return ids >= 0


class DPO(PairModule):
    """Direct Preference Optimization (2305.18290), equation 7."""

    def __init__(
        self,
        model: nn.Module,
        *,
        beta: float = 0.1,
        ref_model_ema_decay: float = 1.0,
        pad_id: int | None = None,
        ema_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, "dpo", beta, pad_id, ref_model_ema_decay, ema_kwargs)

    def forward(
        self,
        preferred_seq: Tensor,
        unpreferred_seq: Tensor,
        prompt_len: Tensor,
        preferred_seq_mask: Tensor | None = None,
        unpreferred_seq_mask: Tensor | None = None,
    ) -> Tensor:
        """ids (B, T1) and (B, T2), prompt lengths (B,); masks bool, True on real tokens -> scalar."""
        return self._mean_loss(
            self._batch(preferred_seq, prompt_len, preferred_seq_mask, "preferred_seq"),
            self._batch(unpreferred_seq, prompt_len, unpreferred_seq_mask, "unpreferred_seq"),
        )


class SPIN(PairModule):
    """Self-play fine-tuning (2401.01335), equation 4.7 with the logistic loss; λ is its beta."""

    def __init__(
        self,
        model: nn.Module,
        *,
        λ: float = 0.1,
        pad_id: int | None = None,
        ref_model_ema_decay: float = 1.0,
        ema_kwargs: Mapping[str, Any] | None = None,
        **beta: float,
    ) -> None:
        value = beta_of("SPIN", beta, λ)
        super().__init__(model, "spin", value, pad_id, ref_model_ema_decay, ema_kwargs)

    @property
    def λ(self) -> float:
        return self.beta

    def forward(
        self,
        generated_seq: Tensor,
        real_seq: Tensor,
        prompt_len: Tensor,
        generated_seq_mask: Tensor | None = None,
        real_seq_mask: Tensor | None = None,
    ) -> Tensor:
        """ids (B, T1) and (B, T2), prompt lengths (B,); masks bool, True on real tokens -> scalar."""
        return self._mean_loss(
            self._batch(real_seq, prompt_len, real_seq_mask, "real_seq"),
            self._batch(generated_seq, prompt_len, generated_seq_mask, "generated_seq"),
        )

"""x-transformers' TransformerWrapper."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from self_rewarding_lm_pytorch.models.caches import Cache
from self_rewarding_lm_pytorch.models.forks import seen_from
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.weights import save_weights
from self_rewarding_lm_pytorch.models.x_transformers_caches import (
    XTransformersOwnCache,
    XTransformersSharedCache,
)


class XTransformersPolicy(Policy):
    """Keys and values are cached where the wrapper says it can (`can_cache_kv`)."""

    family = "x-transformers"

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.max_length: int | None = module.max_seq_len or None  # type: ignore[assignment]
        self.vocab_size: int | None = module.num_tokens  # type: ignore[assignment]

    def features(self, ids: Tensor) -> Tensor:
        features: Tensor = self.module(ids, return_embeddings=self.has_plain_head)
        return features

    def forked_features(self, ids: Tensor, positions: Tensor, branches: Tensor) -> Tensor:
        if any(getattr(part, "max_attend_past", None) is not None for part in self.module.modules()):
            raise NotImplementedError("a window, which the wrapper counts in columns")
        seen = seen_from(positions, branches)
        features: Tensor = self.module(
            ids, pos=positions, attn_mask=seen, return_embeddings=self.has_plain_head
        )
        return features

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.module.to_logits(features) if self.has_plain_head else features
        return logits

    @property
    def has_plain_head(self) -> bool:
        """Whether the logits are nothing but `to_logits` of the embeddings."""
        net = self.module
        mixed = net.output_is_log_prob or net.sigsoftmax_logits or net.squeeze_out_last_dim
        return net.to_logits is not None and not mixed and not net.has_multiple_heads

    def cache_kinds(self) -> tuple[type[Cache], ...]:
        can_cache = self.module.can_cache_kv and self.has_plain_head
        return (XTransformersSharedCache, XTransformersOwnCache) if can_cache else ()

    def copy(self) -> XTransformersPolicy:
        other = XTransformersPolicy(copy.deepcopy(self.module).eval().requires_grad_(False))
        other.autocast = self.autocast
        return other

    def save(self, folder: Path) -> None:
        save_weights(self.module, folder / "model.safetensors")

"""x-transformers' TransformerWrapper. The only file that knows its caches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.models.buffers import GrowingBuffer
from self_rewarding_lm_pytorch.models.policy import Cache, Policy
from self_rewarding_lm_pytorch.models.weights import save_weights

_PROMPT_TOKENS_AT_ONCE = 2048


class XTransformersPolicy(Policy):
    """Keys and values are cached where the wrapper says it can (`can_cache_kv`)."""

    family = "x-transformers"

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.max_length: int | None = module.max_seq_len or None  # type: ignore[assignment]
        self.vocab_size: int | None = module.num_tokens  # type: ignore[assignment]

    def features(self, ids: Tensor) -> Tensor:
        features: Tensor = self.module(ids, return_embeddings=self._has_plain_head)
        return features

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.module.to_logits(features) if self._has_plain_head else features
        return logits

    @property
    def _has_plain_head(self) -> bool:
        """Whether the logits are nothing but `to_logits` of the embeddings."""
        net = self.module
        mixed = net.output_is_log_prob or net.sigsoftmax_logits or net.squeeze_out_last_dim
        return net.to_logits is not None and not mixed and not net.has_multiple_heads

    @property
    def has_cache(self) -> bool:
        return bool(self.module.can_cache_kv) and self._has_plain_head

    def start(self, ids: Tensor, lengths: Tensor, capacity: int) -> tuple[Tensor, Cache]:
        if not self.has_cache or self.needs_recomputing(ids, lengths):
            return self.start_without_cache(ids, lengths)
        cache = _KeyValueCache(self, lengths, ids.shape[1], capacity)
        return cache.read_prompts(ids), cache

    def copy(self) -> XTransformersPolicy:
        other = XTransformersPolicy(copy.deepcopy(self.module).eval().requires_grad_(False))
        other.autocast = self.autocast
        return other

    def save(self, folder: Path) -> None:
        save_weights(self.module, folder / "model.safetensors")


class _KeyValueCache(Cache):
    """The wrapper's own cache record, its keys and values kept in growing buffers."""

    def __init__(self, policy: XTransformersPolicy, lengths: Tensor, width: int, capacity: int) -> None:
        self._policy = policy
        padding = width - lengths
        self._start: Tensor | None = padding if bool((padding > 0).any()) else None
        self._capacity = capacity
        self._state: Any = None
        self._buffers: list[tuple[GrowingBuffer, ...]] = []

    def read_prompts(self, ids: Tensor) -> Tensor:
        """A few rows at once: attention that is not fused holds the squares of their lengths."""
        rows = max(1, _PROMPT_TOKENS_AT_ONCE // ids.shape[1])
        logits: list[Tensor] = []
        kept: list[list[tuple[Tensor, ...]]] = []
        for first in range(0, len(ids), rows):
            part = slice(first, first + rows)
            start = None if self._start is None else self._start[part]
            logits.append(self._forward(ids[part], start, None))
            kept.append([tuple(layer.cached_kv) for layer in self._cached_layers()])
        self._buffers = [
            tuple(GrowingBuffer(torch.cat(parts), self._capacity) for parts in zip(*layer, strict=True))
            for layer in zip(*kept, strict=True)
        ]
        self._lend()
        return torch.cat(logits)

    def extend(self, tokens: Tensor) -> Tensor:
        logits = self._forward(tokens[:, None], self._start, self._state)
        self._lend()
        return logits

    def _forward(self, ids: Tensor, start: Tensor | None, state: Any) -> Tensor:
        features, self._state = self._policy.module(
            ids,
            return_embeddings_and_intermediates=True,
            seq_start_pos=start,
            cache=state,
            input_not_include_cache=True,
        )
        self._state.hiddens = self._state.layer_hiddens = None  # not needed, and large
        return self._policy.head(features[:, -1])

    def _cached_layers(self) -> list[Any]:
        return [layer for layer in self._state.attn_intermediates if layer.cached_kv is not None]

    def _lend(self) -> None:
        """The wrapper's record points at the buffers; it appends to them unknowingly."""
        for layer, buffers in zip(self._cached_layers(), self._buffers, strict=True):
            layer.cached_kv = tuple(_Growing.of(buffer) for buffer in buffers)

    def repeat(self, times: int) -> None:
        rows = len(self._buffers[0][0].filled)
        self.keep(torch.arange(rows, device=self._policy.device).repeat_interleave(times))

    def keep(self, rows: Tensor) -> None:
        for buffers in self._buffers:
            for buffer in buffers:
                buffer.select(rows)
        self._start = None if self._start is None else self._start[rows]
        self._lend()


class _Growing(Tensor):
    """A buffer's filled part, for which `cat` with new positions appends in place.

    The wrapper concatenates its cache with each token's keys and values, which copies everything;
    this lets it do so unknowingly without the copy.
    """

    buffer: GrowingBuffer

    @classmethod
    def of(cls, buffer: GrowingBuffer) -> _Growing:
        view = buffer.filled.as_subclass(cls)
        view.buffer = buffer
        return view

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.cat and kwargs.get("dim") == -2 and len(args) == 1 and len(args[0]) == 2:
            old, new = args[0]
            if isinstance(old, cls) and not isinstance(new, cls):
                return old.buffer.append(new)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

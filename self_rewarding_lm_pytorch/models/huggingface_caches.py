"""The caches of Hugging Face models. The only file that knows transformers' attention and caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer

from self_rewarding_lm_pytorch.models.buffers import GrowingBuffer
from self_rewarding_lm_pytorch.models.caches import Tokens
from self_rewarding_lm_pytorch.models.cascade import Style
from self_rewarding_lm_pytorch.models.cohorts import Cohort, CohortCache
from self_rewarding_lm_pytorch.models.shared_attention import Attention
from self_rewarding_lm_pytorch.models.shared_cache import SharedCache

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.models.huggingface import HuggingFacePolicy

_OURS = "self_rewarding_lm_shared"
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}

_attention: ContextVar[Attention] = ContextVar("attention")
_windows: ContextVar[dict[int, int | None]] = ContextVar("windows")


class HuggingFaceSharedCache(SharedCache):
    """For models that take their attention from transformers' AttentionInterface; unmodified."""

    policy: HuggingFacePolicy

    def __init__(self, policy: HuggingFacePolicy, prefix: Tokens = ()) -> None:
        config = policy.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        if not getattr(policy.model, "_supports_attention_backend", False) or kinds - _KNOWN_LAYERS:
            raise NotImplementedError(f"{type(policy.model).__name__} computes its own attention")
        self._layer_types = getattr(config, "layer_types", None)
        parts: list[Any] = [part for part in policy.model.modules() if hasattr(part, "config")]
        self._configs = list({id(part.config): part.config for part in parts}.values())
        self._splits_head = policy.has_plain_head  # tried here, with the model's own attention
        super().__init__(policy, prefix)

    def forward(self, ids: Tensor, positions: Tensor, last: Tensor, attention: Attention) -> Tensor:
        windows: dict[int, int | None] = {}
        tokens = _attention.set(attention), _windows.set(windows)
        try:
            with _our_attention(self._configs):
                logits = self._logits(ids, positions, last)
        finally:
            _attention.reset(tokens[0])
            _windows.reset(tokens[1])
        for layer, kind in enumerate(self._layer_types or ()):
            if (kind == "sliding_attention") != (windows.get(layer) is not None):
                raise NotImplementedError(f"layer {layer} is {kind}, but its window is {windows.get(layer)}")
        return logits

    def _logits(self, ids: Tensor, positions: Tensor, last: Tensor) -> Tensor:
        rows = torch.arange(len(ids), device=ids.device)
        arguments: dict[str, Any] = {"position_ids": positions, "use_cache": False}
        if self._splits_head:
            hidden = self.policy.model.base_model(ids, **arguments).last_hidden_state
            return self.policy.head(hidden[rows, last])
        kept, place = last.unique(return_inverse=True)
        logits: Tensor = self.policy.model(ids, logits_to_keep=kept, **arguments).logits
        return logits[rows, place]


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """What the interface calls: (B, heads, S, d) -> (B, S, heads, d)."""
    if attention_mask is not None:
        raise NotImplementedError("a mask of the model's own")
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale = options.get("scaling")
    window = options.get("sliding_window")
    _windows.get()[layer] = window
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    style = Style(scale, window, options.get("softcap"), options.get("s_aux"))
    return _attention.get()(layer, query, key, value, style).transpose(1, 2).contiguous(), None


AttentionInterface.register(_OURS, _attend)


@contextmanager
def _our_attention(configs: list[Any]) -> Iterator[None]:
    """The parts with these configurations take their attention from us for a while."""
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = _OURS
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


class HuggingFaceOwnCache(CohortCache):
    """For models with state or attention of their own (recurrent layers, sinks): transformers' cache."""

    kind = "the model's own cache"
    policy: HuggingFacePolicy

    def start(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> tuple[Tensor, Cohort]:
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        is_double = any(part.dtype == torch.float64 for part in self.policy.model.parameters())
        if is_double and int(lengths.min()) < int(lengths.max()):
            # transformers masks with a number that a float32 softmax takes for minus infinity; a
            # padding position, which sees nothing else, becomes NaN and spreads.
            raise NotImplementedError("left-padded rows in float64")
        width = int(lengths.max())
        ids = torch.tensor([[*[0] * (width - len(prompt)), *prompt] for prompt in prompts])
        cohort = _LeftPadded(self.policy, lengths.to(self.policy.device), width, width + room)
        logits = cohort.read(ids.to(self.policy.device))
        cohort.select(torch.arange(len(prompts)).repeat_interleave(torch.tensor(copies)).to(logits.device))
        return logits, cohort


class _LeftPadded(Cohort):
    """A batch in transformers' own cache; full-attention layers write in place, without concatenating."""

    def __init__(self, policy: HuggingFacePolicy, lengths: Tensor, width: int, capacity: int) -> None:
        self._policy = policy
        self._cache = DynamicCache(config=policy.model.config)
        layers = self._cache.layers
        layers[:] = [_GrowingLayer(capacity) if type(x) is DynamicLayer else x for x in layers]
        padding = width - lengths
        self._next = lengths  # each row's next position
        self._filled = 0
        self._mask: Tensor | None = None  # None: no row is padded
        if bool((padding > 0).any()):
            self._mask = (torch.arange(capacity, device=lengths.device) >= padding[:, None]).long()

    def read(self, ids: Tensor) -> Tensor:
        count = ids.shape[1]
        is_first = self._filled == 0
        self._filled += count
        # On the first call the padding's own positions are clamped; nothing attends to them.
        ahead = torch.arange(count, device=ids.device) - (count if is_first else 0)
        positions = (self._next[:, None] + ahead).clamp(min=0)
        if not is_first:
            self._next = self._next + count
        arguments: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        if self._policy.takes_positions:
            arguments["position_ids"] = positions
        if self._mask is not None:
            arguments["attention_mask"] = self._mask[:, : self._filled]
        logits: Tensor = self._policy.model(ids, logits_to_keep=1, **arguments).logits
        return logits[:, -1]

    def extend(self, tokens: Tensor) -> Tensor:
        return self.read(tokens[:, None])

    def select(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._next = self._next[rows]
        self._mask = None if self._mask is None else self._mask[rows]


class _GrowingLayer(DynamicLayer):
    """transformers' growing layer, without the copy of everything at each token."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._buffers: tuple[GrowingBuffer, GrowingBuffer] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self._buffers is None:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (
                GrowingBuffer(key_states, self._capacity),
                GrowingBuffer(value_states, self._capacity),
            )
        else:
            self._buffers[0].append(key_states)
            self._buffers[1].append(value_states)
        self.keys, self.values = self._buffers[0].filled, self._buffers[1].filled
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        if self._buffers is not None:
            for buffer in self._buffers:
                buffer.select(indices)
            self.keys, self.values = self._buffers[0].filled, self._buffers[1].filled

"""Hugging Face decoder models. The only file that knows transformers' caches."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.utils import logging as hf_logging

from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.models.buffers import GrowingBuffer
from self_rewarding_lm_pytorch.models.policy import Cache, Policy


class HuggingFacePolicy(Policy):
    """Any `AutoModelForCausalLM`; saved as a folder that `from_pretrained` loads."""

    family = "huggingface"
    module: Any
    vocab_size: int

    def __init__(self, module: Any, tokenizer: Any = None) -> None:
        self.module = module
        self.tokenizer = tokenizer
        config: Any = self.module.config.get_text_config()
        self.max_length = getattr(config, "max_position_embeddings", None)
        self.vocab_size = config.vocab_size
        self._takes_positions = "position_ids" in inspect.signature(self.module.forward).parameters
        self._is_head_plain: bool | None = None  # known once it has been tried

    def features(self, ids: Tensor) -> Tensor:
        if self._has_plain_head:
            hidden: Tensor = self.module.base_model(ids, use_cache=False).last_hidden_state
            return hidden
        logits: Tensor = self.module(ids, use_cache=False).logits
        return logits

    def head(self, features: Tensor) -> Tensor:
        if self._has_plain_head:
            logits: Tensor = self.module.get_output_embeddings()(features)
            return logits
        return features

    @property
    def _has_plain_head(self) -> bool:
        """Whether the logits are nothing but the output layer of the last hidden state.

        Families scale their logits under many names, so it is tried, once, on a few tokens. A cap that
        small logits hardly feel would pass that, so caps are looked for by name.
        """
        if self._is_head_plain is None:
            self._is_head_plain = self._try_plain_head()
        return self._is_head_plain

    def _try_plain_head(self) -> bool:
        base, output = self.module.base_model, self.module.get_output_embeddings()
        capped = getattr(self.module.config.get_text_config(), "final_logit_softcapping", None)
        if base is self.module or not isinstance(output, nn.Module) or capped is not None:
            return False
        ids = (torch.arange(1, 7, device=self.device) * 7 % self.vocab_size)[None]
        with self.evaluating():
            hidden = base(ids, use_cache=False)[0]
            if hidden.ndim != 3 or hidden.shape[-1] != getattr(output, "in_features", hidden.shape[-1]):
                return False
            whole, split = self.module(ids, use_cache=False).logits, output(hidden)
            tolerance = 1e-3 if whole.dtype in (torch.float32, torch.float64) else 2e-2
            off = (whole - split).abs().max()
            return bool(off <= tolerance * whole.abs().max())

    @property
    def has_cache(self) -> bool:
        return bool(getattr(self.module, "_supports_cache_class", True))

    def start(self, ids: Tensor, lengths: Tensor, capacity: int) -> tuple[Tensor, Cache]:
        if not self.has_cache or self.needs_recomputing(ids, lengths):
            return self.start_without_cache(ids, lengths)
        cache = _KeyValueCache(self, ids, lengths, capacity)
        return cache.read(ids), cache

    def restore(self, folder: Path) -> None:
        try:
            super().restore(folder)
        except CheckpointError:
            # Some families (mixtures of experts) are saved under other names than they train under.
            with no_progress_bars():
                saved = type(self.module).from_pretrained(folder, dtype=self.module.dtype)
            self.module.load_state_dict(saved.state_dict())

    def copy(self) -> HuggingFacePolicy:
        twin = copy.deepcopy(self.module).eval().requires_grad_(False)
        other = HuggingFacePolicy(twin, self.tokenizer)
        other.autocast = self.autocast
        return other

    def save(self, folder: Path) -> None:
        with no_progress_bars():
            self.module.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers draws a bar for each file it reads or writes; ours would be torn by it."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


class _KeyValueCache(Cache):
    """transformers' own cache; its full-attention layers write in place instead of concatenating."""

    def __init__(self, policy: HuggingFacePolicy, ids: Tensor, lengths: Tensor, capacity: int) -> None:
        self._policy = policy
        self._cache = DynamicCache(config=policy.module.config)
        layers = self._cache.layers
        layers[:] = [_GrowingLayer(capacity) if type(x) is DynamicLayer else x for x in layers]
        width = ids.shape[1]
        padding = width - lengths
        self._next = lengths  # each row's next position
        self._filled = 0
        self._mask: Tensor | None = None  # None: no row is padded
        if bool((padding > 0).any()):
            columns = torch.arange(max(capacity, width), device=ids.device)
            self._mask = (columns >= padding[:, None]).long()

    def read(self, ids: Tensor) -> Tensor:
        count = ids.shape[1]
        self._filled += count
        # On the first call the padding's own positions are clamped; nothing attends to them.
        ahead = torch.arange(count, device=ids.device) - (count if self._filled == count else 0)
        positions = (self._next[:, None] + ahead).clamp(min=0)
        if self._filled != count:
            self._next = self._next + count
        arguments: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        if self._policy._takes_positions:
            arguments["position_ids"] = positions
        if self._mask is not None:
            if self._filled > self._mask.shape[1]:
                self._mask = torch.cat((self._mask, torch.ones_like(self._mask)), dim=1)
            arguments["attention_mask"] = self._mask[:, : self._filled]
        logits: Tensor = self._policy.module(ids, logits_to_keep=1, **arguments).logits
        return logits[:, -1]

    def extend(self, tokens: Tensor) -> Tensor:
        return self.read(tokens[:, None])

    def repeat(self, times: int) -> None:
        rows = torch.arange(len(self._next), device=self._next.device)
        self.keep(rows.repeat_interleave(times))

    def keep(self, rows: Tensor) -> None:
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

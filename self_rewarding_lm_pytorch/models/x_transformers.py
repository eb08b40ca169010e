"""x-transformers' TransformerWrapper. The only file that knows its caches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.models.buffers import GrowingBuffer
from self_rewarding_lm_pytorch.models.caches import Cache, Tokens, chunks, right_padded
from self_rewarding_lm_pytorch.models.cohorts import Cohort, CohortCache
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.weights import save_weights


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
        return (XTransformersCache,) if self.module.can_cache_kv and self.has_plain_head else ()

    def copy(self) -> XTransformersPolicy:
        other = XTransformersPolicy(copy.deepcopy(self.module).eval().requires_grad_(False))
        other.autocast = self.autocast
        return other

    def save(self, folder: Path) -> None:
        save_weights(self.module, folder / "model.safetensors")


class XTransformersCache(CohortCache):
    """The wrapper's own cache, in rows that end in the same column."""

    kind = "the model's own cache"
    policy: XTransformersPolicy

    def __init__(self, policy: XTransformersPolicy, prefix: Tokens = ()) -> None:
        super().__init__(policy, prefix)
        self._read: Any = None  # what the wrapper remembers of the prefix
        if self.prefix:
            _, self._read = _forward(policy, torch.tensor([self.prefix], device=policy.device), None, None)

    def start(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> tuple[Tensor, Cohort]:
        """Read right-padded, which needs no mask; then each row moves to the right by its padding."""
        device = self.policy.device
        longest = max(map(len, prompts))
        padding = longest - torch.tensor([len(prompt) for prompt in prompts], device=device)
        cohort = _Rows(self.policy, padding, longest, room, torch.tensor(copies, device=device))
        own = [prompt[len(self.prefix) :] for prompt in prompts]
        logits = []
        for part in chunks(list(map(len, own))):
            ids, lengths = (x.to(device) for x in right_padded(own[part]))
            features, state = _forward(self.policy, ids, None, _repeated(self._read, len(ids)))
            logits.append(self.policy.head(features[torch.arange(len(ids), device=device), lengths - 1]))
            cohort.take(state, part)
        return torch.cat(logits), cohort


class _Rows(Cohort):
    """The wrapper's record of a batch, its keys and values kept in growing buffers."""

    def __init__(
        self, policy: XTransformersPolicy, padding: Tensor, width: int, room: int, copies: Tensor
    ) -> None:
        self._policy = policy
        self._width = width
        self._room = room
        self._copies = copies
        self._padding = padding  # of each prompt
        rows = padding.repeat_interleave(copies)
        self._start: Tensor | None = rows if bool((rows > 0).any()) else None
        self._state: Any = None
        self._buffers: list[tuple[GrowingBuffer, ...]] = []

    def take(self, state: Any, part: slice) -> None:
        """What was read of some prompts goes to their rows."""
        first = int(self._copies[: part.start].sum())
        own = torch.arange(len(self._copies), device=self._copies.device)[part]
        prompts = (own - part.start).repeat_interleave(self._copies[own])
        shift = self._padding[own].repeat_interleave(self._copies[own])
        columns = (torch.arange(self._width, device=shift.device) - shift[:, None]).clamp(min=0)
        layers = _cached_layers(state)
        if not self._buffers:
            num_rows = int(self._copies.sum())
            self._buffers = [
                tuple(GrowingBuffer.empty(num_rows, x, self._width, self._room) for x in layer.cached_kv)
                for layer in layers
            ]
            self._state = state
        for layer, buffers in zip(layers, self._buffers, strict=True):
            for buffer, read in zip(buffers, layer.cached_kv, strict=True):
                index = columns.clamp(max=read.shape[-2] - 1)[:, None, :, None]
                rows = read[prompts].gather(2, index.expand(-1, read.shape[1], -1, read.shape[3]))
                buffer.filled[first : first + len(rows)] = rows
        self._lend()

    def extend(self, tokens: Tensor) -> Tensor:
        features, self._state = _forward(self._policy, tokens[:, None], self._start, self._state)
        self._lend()
        return self._policy.head(features[:, -1])

    def _lend(self) -> None:
        """The wrapper's record points at the buffers; it appends to them unknowingly."""
        for layer, buffers in zip(_cached_layers(self._state), self._buffers, strict=True):
            layer.cached_kv = tuple(_Growing.of(buffer) for buffer in buffers)
        self._state.cache_length = self._buffers[0][0].length

    def select(self, slots: Tensor) -> None:
        for buffers in self._buffers:
            for buffer in buffers:
                buffer.select(slots)
        self._start = None if self._start is None else self._start[slots]
        self._lend()


def _forward(
    policy: XTransformersPolicy, ids: Tensor, start: Tensor | None, state: Any
) -> tuple[Tensor, Any]:
    features, state = policy.module(
        ids,
        return_embeddings_and_intermediates=True,
        seq_start_pos=start,
        cache=state,
        input_not_include_cache=True,
        cache_age=ids.shape[1],  # how many of the ids are new
    )
    state.hiddens = state.layer_hiddens = None  # not needed, and large
    return features, state


def _cached_layers(state: Any) -> list[Any]:
    return [layer for layer in state.attn_intermediates if layer.cached_kv is not None]


def _repeated(state: Any, times: int) -> Any:
    """A copy of the prefix's record for so many rows."""
    if state is None:
        return None
    twin = copy.copy(state)
    twin.attn_intermediates = [copy.copy(layer) for layer in state.attn_intermediates]
    for layer in _cached_layers(twin):
        layer.cached_kv = tuple(x.expand(times, -1, -1, -1) for x in layer.cached_kv)
    return twin


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

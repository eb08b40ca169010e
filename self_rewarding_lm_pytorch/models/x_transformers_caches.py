"""The caches of x-transformers' TransformerWrapper. The only file that knows its attention and caches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.models.buffers import GrowingBuffer
from self_rewarding_lm_pytorch.models.caches import Tokens, chunks, right_padded
from self_rewarding_lm_pytorch.models.cascade import Style
from self_rewarding_lm_pytorch.models.cohorts import Cohort, CohortCache
from self_rewarding_lm_pytorch.models.shared_attention import Attention
from self_rewarding_lm_pytorch.models.shared_cache import SharedCache

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.models.x_transformers import XTransformersPolicy

_UNDERSTOOD = {
    *("training", "scale", "causal", "create_causal_mask", "attn_fn", "dropout", "attn_dropout"),
    *("flash", "sdp_context_manager", "softclamp_logits", "logit_softclamp_value"),
}
"""What we know of the wrapper's attention; anything else that is switched on changes it."""


class XTransformersSharedCache(SharedCache):
    """For wrappers whose positions are in the tokens (absolute or rotary) and whose attention is plain."""

    policy: XTransformersPolicy

    def __init__(self, policy: XTransformersPolicy, prefix: Tokens = ()) -> None:
        module = policy.module
        # The attention of each layer is a part of its own, also where layers are repeated.
        self._parts = [part.attend for part in module.modules() if hasattr(part, "attend")]
        for attend in self._parts:
            if unknown := sorted(_switched_on(attend) - _UNDERSTOOD):
                raise NotImplementedError(f"attention with {', '.join(unknown)}")
            if not isinstance(attend.attn_fn, partial) or attend.attn_fn.func is not nn.functional.softmax:
                raise NotImplementedError("attention without a softmax")
        rotary = module.attn_layers.rotary_pos_emb
        if rotary is not None and rotary.scale is not None:
            raise NotImplementedError("keys that are scaled by the length of the batch (xpos)")
        super().__init__(policy, prefix)

    def forward(self, ids: Tensor, positions: Tensor, last: Tensor, attention: Attention) -> Tensor:
        with _our_attention(self._parts, attention):
            features = self.policy.module(ids, pos=positions, return_embeddings=True)
        return self.policy.head(features[torch.arange(len(ids), device=ids.device), last])


def _switched_on(attend: nn.Module) -> set[str]:
    states = {**vars(attend), **attend._modules, **attend._parameters}
    return {name for name, value in states.items() if not name.startswith("_") and value not in (None, False)}


@contextmanager
def _our_attention(parts: Sequence[nn.Module], attention: Attention) -> Iterator[None]:
    """The wrapper takes its attention from us for a while."""
    layers = count()
    for part in parts:
        part.forward = partial(_attend, attention, layers, part)
    try:
        yield
    finally:
        for part in parts:
            del part.forward


def _attend(
    attention: Attention,
    layers: Iterator[int],
    part: Any,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, Any]:
    """What the wrapper calls in each layer. Its query heads go through the key heads in turn, ours do not."""
    from x_transformers.attend import Intermediates

    given = [name for name, value in others.items() if value is not None]
    is_causal = part.causal if causal is None else causal
    if given or not is_causal or keys.shape[-2] != queries.shape[-2]:
        raise NotImplementedError(f"attention with {', '.join(given) or 'other keys'}")
    shared, held = queries.shape[1] // keys.shape[1], keys.shape[1]
    scale = queries.shape[-1] ** -0.5 if part.scale is None else float(part.scale)
    style = Style(scale, softcap=part.logit_softclamp_value if part.softclamp_logits else None)
    ours = queries.unflatten(1, (shared, held)).transpose(1, 2).flatten(1, 2)
    output = attention(next(layers), ours, keys, values, style)
    return output.unflatten(1, (held, shared)).transpose(1, 2).flatten(1, 2), Intermediates()


class XTransformersOwnCache(CohortCache):
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

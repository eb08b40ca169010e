"""What the rest of the library may ask of a model. Knows no family, no tokenizer and no loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.models.weights import load_weights


class Cache(ABC):
    """What a policy remembers of the rows it has read. Rows may be repeated or dropped."""

    @abstractmethod
    def extend(self, tokens: Tensor) -> Tensor:
        """Reads one more token in each row, int64 (B,); returns the next logits, float (B, V)."""

    @abstractmethod
    def repeat(self, times: int) -> None:
        """Each row becomes `times` equal neighbouring rows."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Only these rows stay, in this order; int64 (B',)."""


class Policy(ABC):
    """A language model from token ids to next-token logits."""

    module: nn.Module
    family: str
    max_length: int | None  # positions the model can read; None where no limit is known
    vocab_size: int | None  # None where it cannot be told without running the model
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext  # mixed precision, for log-probs

    @abstractmethod
    def features(self, ids: Tensor) -> Tensor:
        """What the head turns into logits: (B, T) right-padded ids -> (B, T, D).

        Causal models need no mask here: padding stands behind every real position.
        """

    def head(self, features: Tensor) -> Tensor:
        """(..., D) -> logits (..., V). A model without a head of its own has logits for features."""
        return features

    def logits(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V). The whole tensor: for tests and small work only."""
        return self.head(self.features(ids))

    def start(self, ids: Tensor, lengths: Tensor, capacity: int) -> tuple[Tensor, Cache]:
        """Reads prompts and gets ready to continue them.

        ids: int64 (B, T), LEFT-padded; lengths: int64 (B,); capacity: positions to make room for.
        Returns the logits after each prompt, (B, V), and the cache. Without a cache of its own a
        model reads everything again for each token (slow, and right for every module).
        """
        return self.start_without_cache(ids, lengths)

    def start_without_cache(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Cache]:
        """`start` by reading everything again; ids left-padded (B, T)."""
        cache = RecomputingCache(self, ids, lengths)
        return cache.next_logits(), cache

    @property
    def has_cache(self) -> bool:
        """Whether `start` avoids recomputation."""
        return type(self).start is not Policy.start

    def needs_recomputing(self, ids: Tensor, lengths: Tensor) -> bool:
        """Whether left-padded rows are beyond the model's own cache.

        In float64 both libraries mask with a number that a float32 softmax takes for minus infinity;
        a padding position, which sees nothing else, becomes NaN and spreads.
        """
        is_double = any(part.dtype == torch.float64 for part in self.module.parameters())
        return is_double and bool((lengths < ids.shape[1]).any())

    @property
    def device(self) -> torch.device:
        first = next(self.module.parameters(), None)
        return first.device if first is not None else torch.device("cpu")

    @abstractmethod
    def copy(self) -> Policy:
        """An independent copy, frozen and in evaluation mode."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the weights into an existing folder."""

    def restore(self, folder: Path) -> None:
        """Takes the weights that `save` wrote there."""
        load_weights(self.module, *sorted(folder.glob("*.safetensors")))

    @contextmanager
    def dropout(self, probability: float | None) -> Iterator[None]:
        """Sets every dropout of the model for a while; None leaves them as they are."""
        places = _dropouts(self.module) if probability is not None else []
        before = [getattr(owner, name) for owner, name in places]
        for owner, name in places:
            setattr(owner, name, probability)
        try:
            yield
        finally:
            for (owner, name), value in zip(places, before, strict=True):
                setattr(owner, name, value)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No dropout, no gradients; the former mode comes back."""
        with evaluation_mode(self.module):
            yield


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """No dropout, no gradients; every submodule's former mode comes back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, was_training in modes:
            part.training = was_training


# Attention kernels take their dropout as a number, not as a module (Hugging Face: `attention_dropout`,
# x-transformers' Attend: `dropout`).
_DROPOUT_NUMBERS = ("attention_dropout", "attn_dropout", "dropout", "dropout_p")


def _dropouts(module: nn.Module) -> list[tuple[Any, str]]:
    places: list[tuple[Any, str]] = []
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            places.append((part, "p"))
            continue
        for name in _DROPOUT_NUMBERS:
            value = part.__dict__.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                places.append((part, name))
    return places


class RecomputingCache(Cache):
    """The path for any module: remembers the ids and runs the whole model for each new token."""

    def __init__(self, policy: Policy, ids: Tensor, lengths: Tensor) -> None:
        self._policy = policy
        self._lengths = lengths.clone()
        self._ids = right_padded(ids, lengths)

    def next_logits(self) -> Tensor:
        features = self._policy.features(self._ids)
        last = features[torch.arange(len(features), device=features.device), self._lengths - 1]
        return self._policy.head(last)

    def extend(self, tokens: Tensor) -> Tensor:
        self._ids = torch.cat((self._ids, torch.zeros_like(self._ids[:, :1])), dim=1)
        self._ids[torch.arange(len(tokens), device=tokens.device), self._lengths] = tokens
        self._lengths = self._lengths + 1
        self._ids = self._ids[:, : int(self._lengths.max())]
        return self.next_logits()

    def repeat(self, times: int) -> None:
        self._ids = self._ids.repeat_interleave(times, dim=0)
        self._lengths = self._lengths.repeat_interleave(times)

    def keep(self, rows: Tensor) -> None:
        self._ids, self._lengths = self._ids[rows], self._lengths[rows]


def right_padded(ids: Tensor, lengths: Tensor) -> Tensor:
    """Left-padded rows moved to the left, zeros behind them. (B, T) -> (B, T)."""
    width = ids.shape[1]
    columns = torch.arange(width, device=ids.device)
    source = columns + (width - lengths)[:, None]
    moved = ids.gather(1, source.clamp(max=width - 1))
    return moved.masked_fill(columns >= lengths[:, None], 0)

"""What the rest of the library may ask of a model. Knows no family, no tokenizer and no loss."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.agreement import cache_agrees, fork_agrees
from self_rewarding_lm_pytorch.models.caches import Cache, RecomputingCache
from self_rewarding_lm_pytorch.models.weights import load_weights


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

    def forked_features(self, ids: Tensor, positions: Tensor, branches: Tensor) -> Tensor:
        """`features` of rows that fork, (B, T) each way; see ForkedBatch. Only where `can_fork`."""
        raise NotImplementedError(f"{self.family} models read one sequence in a row")

    @cached_property
    def can_fork(self) -> bool:
        """Whether forked rows give the features of the separate sequences; tried once."""
        return fork_agrees(self)

    @property
    def fork_width(self) -> int:
        """The longest forked row that the model can read; 0 where it can read none."""
        return (self.max_length or sys.maxsize) if self.can_fork else 0

    def head(self, features: Tensor) -> Tensor:
        """(..., D) -> logits (..., V). A model without a head of its own has logits for features."""
        return features

    def logits(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V). The whole tensor: for tests and small work only."""
        return self.head(self.features(ids))

    def cache_kinds(self) -> tuple[type[Cache], ...]:
        """The caches that may suit this model, the fastest first."""
        return ()

    @cached_property
    def cache_kind(self) -> type[Cache]:
        """The first of them that gives this model's own logits, tried once; else everything is read again."""
        return next((kind for kind in self.cache_kinds() if cache_agrees(self, kind)), RecomputingCache)

    def new_cache(self, prefix: Sequence[int] = (), *, is_cached: bool = True) -> Cache:
        """An empty cache for prompts that all begin with `prefix`."""
        return (self.cache_kind if is_cached else RecomputingCache)(self, prefix)

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
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"there is no .safetensors file in {folder}; name a stage's checkpoint")
        load_weights(self.module, *files)

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

    def check_recomputing(self) -> None:
        """Raises ConfigError where `recomputing` cannot be had."""
        raise ConfigError(no_recomputing(self.family))

    @contextmanager
    def recomputing(self, wanted: bool) -> Iterator[None]:
        """Layers keep no activations for the backward pass for a while, but are computed again there."""
        if wanted:
            self.check_recomputing()
        yield

    def adapter_fault(self) -> str:
        """Why the model without its adapter is not the policy as it now stands; empty where it is.

        Where it is, it may serve as the reference of training that starts now.
        """
        return (
            f"this {self.family} model has no adapter to switch off; take reference: stage_start, or give "
            "the model with one (peft.get_peft_model)"
        )

    def without_adapter(self) -> AbstractContextManager[None]:
        """The model with all its adapters switched off for a while."""
        raise ConfigError(self.adapter_fault())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No dropout, no gradients; the former mode comes back."""
        with evaluation_mode(self.module):
            yield


def no_recomputing(model: str) -> str:
    """What is said where layers cannot be computed again."""
    return (
        f"gradient_checkpointing: {model} models have no way to compute their layers again in the backward "
        "pass; leave it out, and lower micro_batch_tokens if memory is short"
    )


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

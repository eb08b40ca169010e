"""How the processes of a run share a training: a part of each step is each one's, or of the weights too."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.models.logprobs import SequenceLogProbs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.sharding import ShardedTwin, whole_tensor
from self_rewarding_lm_pytorch.training.objectives import Term

Item = TypeVar("Item")

_BUCKET = 2**24
"""Elements of gradients that are summed at once."""


@dataclass(frozen=True)
class Share(Generic[Item]):
    """A micro-batch that this process reads."""

    number: int  # of all micro-batches of the step
    items: list[Item]
    weight: float  # of its loss; 0 where it is only read because the others read one


class Parallel(Protocol):
    """What the loop trains, and how it is kept alike in all processes."""

    policy: Policy  # its parameters are the optimizer's
    model: nn.Module  # gives log-probs

    def training(self) -> AbstractContextManager[None]:
        """From the first step of a training to the last."""
        ...

    def whole(self) -> AbstractContextManager[None]:
        """Between two steps, where the stage's policy is to be read."""
        ...

    def own(self, term: Term[Item, Any], items: Sequence[Item]) -> list[Share[Item]]:
        """The micro-batches of a step's items that this process reads."""
        ...

    def sum_gradients(self) -> None:
        """After a step's backward passes: gradients become sums over the processes."""
        ...


class Replicated:
    """Every process has the whole policy and reads a part of each step; one process alone reads all of it.

    Gradients are summed once a step, so that processes need not read equally many.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.model: nn.Module = SequenceLogProbs(policy)

    def training(self) -> AbstractContextManager[None]:
        return nullcontext()

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def own(self, term: Term[Item, Any], items: Sequence[Item]) -> list[Share[Item]]:
        return _divided(term, items, 1.0)[processes.rank()]

    def sum_gradients(self) -> None:
        if processes.world_size() == 1:
            return
        trained = [p for p in self.policy.module.parameters() if p.requires_grad]
        has_gradient = torch.tensor([float(p.grad is not None) for p in trained], device=self.policy.device)
        processes.add_up(has_gradient)
        touched = [p for p, count in zip(trained, has_gradient.tolist(), strict=True) if count]
        for bucket in _buckets(touched):
            flat = torch.cat([_gradient(p).reshape(-1) for p in bucket])
            processes.add_up(flat)
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = part.view_as(parameter)


class Sharded:
    """Every process has a part of each weight. All read equally many micro-batches, together."""

    def __init__(self, policy: Policy) -> None:
        self._twin = ShardedTwin(policy)
        self.policy = self._twin.policy
        self.model: nn.Module = self._twin.model

    def training(self) -> AbstractContextManager[None]:
        return self._twin.training()

    def whole(self) -> AbstractContextManager[None]:
        return self._twin.whole()

    def own(self, term: Term[Item, Any], items: Sequence[Item]) -> list[Share[Item]]:
        parts = _divided(term, items, float(processes.world_size()))  # gradients are means over the processes
        found = parts[processes.rank()]
        missing = max(map(len, parts)) - len(found)
        return found + [replace(parts[0][-1], weight=0.0)] * missing

    def sum_gradients(self) -> None:
        pass  # backward passes do


def _divided(term: Term[Item, Any], items: Sequence[Item], weight: float) -> list[list[Share[Item]]]:
    """Of each process, its micro-batches: items are dealt out longest first, so that all have alike to read.

    A loss that compares the items of a step needs them in one process.
    """
    size = processes.world_size()
    order = sorted(items, key=len, reverse=True)  # type: ignore[arg-type]
    dealt = [order] if term.max_tokens is None else [order[rank::size] for rank in range(size)]
    micro_batches = [term.micro_batches(own) for own in dealt] + [[]] * (size - len(dealt))
    return [
        [Share(number * size + rank, own, weight) for number, own in enumerate(parts)]
        for rank, parts in enumerate(micro_batches)
    ]


def clip(module: nn.Module, limit: float | None) -> Tensor:
    """Scales the gradients down to the norm `limit`; the norm that they had."""
    return whole_tensor(torch.nn.utils.clip_grad_norm_(module.parameters(), limit or torch.inf))


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """In order, of one dtype each, up to _BUCKET elements or one parameter."""
    found: list[list[nn.Parameter]] = []
    held = 0
    for parameter in parameters:
        fits = found and held + parameter.numel() <= _BUCKET and found[-1][0].dtype == parameter.dtype
        if not fits:
            found.append([])
            held = 0
        found[-1].append(parameter)
        held += parameter.numel()
    return found

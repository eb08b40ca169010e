"""How the processes of a run share a training: a part of each step is each one's, or of the weights too."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.models.logprobs import SequenceLogProbs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.sharding import ShardedTwin, whole_tensor

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

    def own(self, micro_batches: Sequence[list[Item]]) -> list[Share[Item]]:
        """The micro-batches of a step that this process reads."""
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

    def own(self, micro_batches: Sequence[list[Item]]) -> list[Share[Item]]:
        all_of_them = [Share(number, items, 1.0) for number, items in enumerate(micro_batches)]
        return all_of_them[processes.rank() :: processes.world_size()]

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

    def own(self, micro_batches: Sequence[list[Item]]) -> list[Share[Item]]:
        size, rank = processes.world_size(), processes.rank()
        counted = float(size)  # gradients are means over the processes
        found = [Share(n, items, counted) for n, items in enumerate(micro_batches)][rank::size]
        missing = -(-len(micro_batches) // size) - len(found)
        return found + [Share(0, micro_batches[-1], 0.0)] * missing

    def sum_gradients(self) -> None:
        pass  # backward passes do


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

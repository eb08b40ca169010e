"""Weights, gradients and optimizer state in parts, one for each process, while a policy trains.

torch's `fully_shard` (FSDP2) on every layer and on the whole. It changes a module for good, so it is applied
to a twin, which exists in parts only. The policy itself is whole outside training, so that sampling and
judging need no communication and processes go at their own pace; while the twin trains it holds no weights.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.models.logprobs import SequenceLogProbs
from self_rewarding_lm_pytorch.models.policy import Policy

if TYPE_CHECKING:  # it takes a second to import, and who runs on one process has no use for it
    from torch.distributed.tensor import DTensor


class ShardedTwin:
    """`policy` is the twin; `model` gives its log-probs, and all processes must call that equally often.

    Gradients of a backward pass are means over the processes.
    """

    def __init__(self, policy: Policy) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._whole = policy
        self.policy = copy.copy(policy)
        self.policy.module = _without_weights(policy.module)
        self.model = SequenceLogProbs(self.policy)
        mesh = init_device_mesh(policy.device.type, (processes.world_size(),))
        for layer in _layers(self.policy.module):
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.policy.module.to_empty(device=policy.device)

    @contextmanager
    def training(self) -> Iterator[None]:
        """The twin takes the policy's weights, and gives them back at the end; after an error it does not."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        whole = self._whole.module
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.policy.module, whole.state_dict(), options=options)
        _copy_buffers(whole, self.policy.module)
        _release(whole)
        yield
        self._gather()  # not after an error, as the other processes may have had none

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The policy has its weights for a while, to be read and not to be changed."""
        self._gather()
        yield
        _release(self._whole.module)

    def _gather(self) -> None:
        parts = dict(self.policy.module.named_parameters())
        for name, parameter in self._whole.module.named_parameters():
            parameter.data = whole_tensor(parts[name].detach())
        _copy_buffers(self.policy.module, self._whole.module)


def _without_weights(module: nn.Module) -> nn.Module:
    """A copy whose parameters are on the meta device."""
    memo = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    return copy.deepcopy(module, memo)


def _release(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)


def _copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """All of them, also those that no state dict holds."""
    buffers = dict(source.named_buffers())
    for name, buffer in target.named_buffers():
        buffer.copy_(buffers[name])


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers that a family says are not to be split; none where it says nothing."""
    names = set(getattr(module, "_no_split_modules", None) or ())
    return [part for part in module.modules() if type(part).__name__ in names]


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, or a part's whole one, for which all processes ask together."""
    return tensor.full_tensor() if _is_part(tensor) else tensor


def parted_as(whole: Tensor, example: Tensor) -> Tensor:
    """This process's part of a tensor, as the example is parted; the tensor itself where it is not."""
    if not _is_part(example):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, example.device_mesh, example.placements, src_data_rank=None)


def _is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Parts are of a class that is imported where weights are parted, so without it there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)

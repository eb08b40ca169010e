"""The weights that training changes, out of a module and into it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.models.sharding import parted_as
from self_rewarding_lm_pytorch.training.parts import Part


def trained_weights(module: nn.Module, of: nn.Module | None = None) -> dict[str, Tensor]:
    """Parameters that train and all buffers, by name; tied ones once. The tensors are the module's own.

    of: the module whose parameters train, where `module` is a frozen copy of it.
    """
    trained = {name for name, parameter in (of or module).named_parameters() if parameter.requires_grad}
    own = {name: parameter.detach() for name, parameter in module.named_parameters() if name in trained}
    return own | {name: buffer.detach() for name, buffer in module.named_buffers()}


def put_weights(module: nn.Module, tensors: Mapping[str, Tensor], of: nn.Module | None = None) -> None:
    """Copies into the module what `trained_weights` gave.

    A buffer that no state dict holds may be missing: models make some as they go. Raises CheckpointError
    unless all else finds its place, shape and dtype; then nothing was changed.
    """
    own = trained_weights(module, of)
    lasting = {*module.state_dict(), *(name for name, _ in module.named_parameters())}
    wrong = [name for name in own if name not in tensors and name in lasting]
    wrong += [name for name in tensors if name not in own and name in lasting]
    fitting = {name: own[name] for name in tensors if name in own}
    wrong += [name for name in fitting if not _fits(own[name], tensors[name]) and name in lasting]
    if wrong:
        raise CheckpointError(
            f"the stored weights do not fit the model that trains ({', '.join(wrong[:5])}): other parameters "
            "require a gradient than when they were stored, or sizes or the dtype differ"
        )
    with torch.no_grad():
        for name, mine in fitting.items():
            if _fits(mine, tensors[name]):
                mine.copy_(parted_as(tensors[name], mine))


def _fits(mine: Tensor, stored: Tensor) -> bool:
    return mine.shape == stored.shape and mine.dtype == stored.dtype


class TrainedWeights:
    """A module as a part of a training. of: as `trained_weights` has it."""

    def __init__(self, module: nn.Module, of: nn.Module | None = None) -> None:
        self._module = module
        self._of = of

    def state(self) -> Part:
        return Part(trained_weights(self._module, self._of))

    def resume(self, part: Part) -> None:
        put_weights(self._module, part.tensors, self._of)

"""An optimizer's state as tensors and JSON, exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.models.sharding import parted_as
from self_rewarding_lm_pytorch.training.parts import NotStorable, Part


class OptimizerState:
    """Moments and step counters. Rates and other settings are not stored: the plan and the step say them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def state(self) -> Part:
        tensors: dict[str, Tensor] = {}
        entries = self._optimizer.state_dict()["state"].items()
        packed = [[index, _packed(entry, str(index), tensors)] for index, entry in entries]
        return Part(tensors, {"of": _kind(self._optimizer), "entries": packed})

    def resume(self, part: Part) -> None:
        if part.values["of"] != (now := _kind(self._optimizer)):
            raise CheckpointError(f"the stored optimizer is {part.values['of']}, and the training's is {now}")
        entries = part.values["entries"]
        trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        state = {
            index: _parted(_unpacked(entry, part.tensors), trained[index])
            for index, entry in entries
            if index < len(trained)
        }
        groups = self._optimizer.state_dict()["param_groups"]
        known = {index for group in groups for index in group["params"]}
        if not {index for index, _ in entries} <= known:
            raise CheckpointError(
                f"the stored optimizer has state for {len(entries)} tensors, but {len(known)} train: "
                "others require a gradient than when it was stored"
            )
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def _kind(optimizer: torch.optim.Optimizer) -> str:
    """What decides which tensors it keeps."""
    kept = [name for name in ("amsgrad", "centered", "momentum") if optimizer.param_groups[0].get(name)]
    return " with ".join([type(optimizer).__name__, *kept])


def _parted(entry: Any, parameter: Tensor) -> Any:
    """An entry for a parameter of which this process holds a part."""
    if not isinstance(entry, dict):
        return entry
    return {
        name: parted_as(value, parameter)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in entry.items()
    }


def _packed(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a nest of dicts and lists; its tensors go to `tensors` under their places."""
    if isinstance(value, Tensor):
        tensors[place] = value
        return {"tensor": place}
    if isinstance(value, dict):
        return {"dict": [[key, _packed(own, f"{place}.{key}", tensors)] for key, own in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(own, f"{place}.{number}", tensors) for number, own in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise NotStorable(f"the optimizer holds a {type(value).__name__}, which is neither a tensor nor JSON")


def _unpacked(packed: Any, tensors: Any) -> Any:
    ((kind, value),) = packed.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _unpacked(own, tensors) for key, own in value}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_unpacked(own, tensors) for own in value)
    return value

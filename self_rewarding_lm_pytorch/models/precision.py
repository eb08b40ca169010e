"""float64 where the device has it, and on the CPU where it has not (Apple's GPU)."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Types of device."""


def where_float64_is(tensor: Tensor) -> Tensor:
    """The tensor, on the CPU if its device has no float64: what is computed from it can then be exact."""
    return tensor.to(float64_device(tensor.device))


def float64_device(device: torch.device) -> torch.device:
    """Where float64 of what is computed there can be kept."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def in_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its device or on the CPU."""
    return where_float64_is(tensor).to(torch.float64)

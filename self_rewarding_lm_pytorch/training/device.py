"""The one setting of where a run computes."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

import torch
from pydantic import AfterValidator

from self_rewarding_lm_pytorch.errors import ConfigError


def _checked(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError("known are auto, cpu, cuda, cuda:N (the N-th, from 0) and mps")
    return name


Device = Annotated[str, AfterValidator(_checked)]
"""auto: what accelerate finds, a CUDA GPU before the CPU; Apple's GPU (mps) only where it is named."""


def device_arguments(device: str, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of accelerate.Accelerator by which it takes that device; sets the current CUDA device.

    given: the arguments that a plan gives itself. Raises ConfigError where the device is not there, or what
    is given says otherwise.
    """
    if device == "auto":
        is_apple = torch.backends.mps.is_available() and not torch.cuda.is_available()
        return {"cpu": True, **given} if is_apple else given
    try:
        _checked(device)
    except ValueError as error:
        raise ConfigError(f"device {device!r}: {error}") from None
    if given.get("cpu", device == "cpu") != (device == "cpu"):
        raise ConfigError(
            f"device: {device} and accelerate: {{cpu: {given['cpu']}}} contradict each other; leave out one"
        )
    if device == "cpu":
        return {**given, "cpu": True}
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(
                "device: mps is Apple's GPU, which torch does not find here; take device: auto, or cpu"
            )
        return given
    _check_cuda(device)
    return given


def _check_cuda(device: str) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        built = torch.version.cuda
        why = "its driver is missing or too old" if built else "this torch was built without CUDA"
        raise ConfigError(
            f"device: {device} is an NVIDIA GPU, but torch {torch.__version__} finds none ({why}); take "
            "device: auto or cpu, or install a torch that fits the GPU"
        )
    kind, _, number = device.partition(":")
    if not number:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"device: {device} is one GPU, but several processes were started, each of which takes its own; "
            f"say device: {kind}, and choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    if int(number) >= count:
        raise ConfigError(
            f"device: {device} is not there: torch finds {count} GPU{'s' * (count > 1)}, numbered from 0"
        )
    torch.cuda.set_device(int(number))


def check_found(device: str, found: torch.device) -> None:
    """Raises ConfigError where accelerate took another device than the one named."""
    kind = device.partition(":")[0]
    if kind not in ("auto", found.type):
        raise ConfigError(
            f"device: {device} was asked for, but accelerate computes on {found}: it keeps the device that a "
            "process began with. Start a new process, or unset ACCELERATE_TORCH_DEVICE and ACCELERATE_USE_CPU"
        )

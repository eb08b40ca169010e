"""The accelerator of a run, or a refusal of what would not do what it says."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.training.device import check_found, device_arguments

if TYPE_CHECKING:  # half a second to import
    from accelerate import Accelerator

# Another process may sample for hours while one waits; a process that ends is noticed at once all the same.
_PATIENCE = timedelta(days=7)
_SHARDING = (
    "this library parts the weights itself (torch's fully_shard); leave that out, say sharding: full in the "
    "plan, and start the processes with torchrun, or accelerate launch --multi_gpu"
)


def make_accelerator(arguments: Mapping[str, Any], device: str = "auto") -> Accelerator:
    """accelerate.Accelerator(**arguments), on as many processes as were started.

    device: auto, cpu, cuda, cuda:N or mps, as a plan says it. Raises ConfigError for arguments, or a
    launcher's settings, that cannot be used, and for a device that is not there.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    _check(arguments)
    given = device_arguments(device, dict(arguments))
    num_started = int(os.environ.get("WORLD_SIZE", "1"))
    if num_started > 1 and not torch.accelerator.is_available():
        given.setdefault("cpu", True)  # without it accelerate runs each process as if it were alone
    handlers = given.setdefault("kwargs_handlers", [])
    if not any(isinstance(handler, InitProcessGroupKwargs) for handler in handlers):
        given["kwargs_handlers"] = [*handlers, InitProcessGroupKwargs(timeout=_PATIENCE)]
    try:
        accelerator = Accelerator(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"accelerate: {dict(arguments)} cannot be used: {error}") from error
    if accelerator.num_processes != num_started:
        raise ConfigError(
            f"{num_started} processes were started (WORLD_SIZE), but accelerate sees "
            f"{accelerator.num_processes}, so each would do all the work and write over the others' files. "
            f"Start the run without a launcher, or look at the plan's accelerate: {dict(arguments)}"
        )
    check_found(device, accelerator.device)
    if num_started > 1:
        atexit.register(processes.leave)
    return accelerator


def _check(arguments: Mapping[str, Any]) -> None:
    if arguments.get("mixed_precision") == "fp16":
        raise ConfigError(
            "accelerate: mixed_precision fp16 needs scaled losses, which the loop does not do; use bf16, or "
            "leave it out for float32"
        )
    if arguments.get("log_with") is not None:
        raise ConfigError(
            f"accelerate: log_with={arguments['log_with']!r} would log nothing; name trackers in the plan "
            "instead (trackers: [tensorboard]; trackers=[...] of SelfRewardingTrainer), which starts them on "
            "their own. Every logged step is in metrics.jsonl of the run folder as well"
        )
    for name in ("fsdp_plugin", "deepspeed_plugin", "megatron_lm_plugin"):
        if arguments.get(name) is not None:
            raise ConfigError(f"accelerate: {name} would not be used: {_SHARDING}")
    for variable in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"):
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise ConfigError(
                f"the launcher asks for sharding ({variable}), which would not be used: {_SHARDING}"
            )

"""The accelerator of a run, or a refusal of what would not do what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator

from self_rewarding_lm_pytorch.errors import ConfigError


def make_accelerator(arguments: Mapping[str, Any]) -> Accelerator:
    """accelerate.Accelerator(**arguments). Raises ConfigError for arguments that cannot be used."""
    if arguments.get("mixed_precision") == "fp16":
        raise ConfigError(
            "accelerate: mixed_precision fp16 needs scaled losses, which the loop does not do; use bf16, or "
            "leave it out for float32"
        )
    if arguments.get("log_with") is not None:
        raise ConfigError(
            f"accelerate: log_with={arguments['log_with']!r} would log nothing: trackers are not connected "
            "yet. Every logged step is in metrics.jsonl of the run folder"
        )
    given = dict(arguments)
    if torch.backends.mps.is_available() and "cpu" not in given:
        given["cpu"] = True  # sampling draws in float64, which Apple's GPU has not
    try:
        return Accelerator(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"accelerate: {dict(arguments)} cannot be used: {error}") from error

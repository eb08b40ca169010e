"""Adapters by what is on disk and what a plan says; peft itself is imported where one is loaded or made."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from self_rewarding_lm_pytorch import seeds
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.policy import Policy

CONFIG_FILE = "adapter_config.json"


def is_adapter_folder(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file()


def base_of(folder: Path) -> str:
    """What an adapter's folder says it was trained on: a folder, a hub name or module:factory.

    A folder's name may be relative to the adapter's folder, then to the working directory. Raises ConfigError
    where it names nothing, or a folder that is not there.
    """
    try:
        named = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder / CONFIG_FILE} cannot be read: {error}") from error
    what = f"{folder} is an adapter, and {CONFIG_FILE} there"
    if not isinstance(named, str) or not named:
        raise ConfigError(
            f"{what} does not say of which model (base_model_name_or_path={named!r}), so it cannot be "
            "loaded; write that model's folder or hub name there"
        )
    for place in (folder / named, Path(named)):
        if place.is_dir():
            return str(place)
    if is_path(named):
        raise ConfigError(
            f"{what} says that it belongs to the model in {named!r}, which is not there (looked for from "
            f"{folder} and from the working directory); put that model back, or write where it is now as "
            "base_model_name_or_path"
        )
    return named


def is_path(name: str) -> bool:
    """Whether a model's name can only be a folder's: hub names are NAME or OWNER/NAME."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def with_new_adapter(
    policy: Policy,
    arguments: Mapping[str, Any],
    *,
    seed: int,
    is_merged: bool,
    base: str | Path | None,
) -> Policy:
    """The policy with a new adapter, which changes nothing yet and alone trains; in the policy's own module.

    arguments: of peft's LoraConfig. base: where the model without adapter is, which its folder will name.
    Raises ConfigError for models of other families, and where peft is missing.
    """
    if policy.family != "huggingface":
        raise ConfigError(
            f"adapter: peft adapts Hugging Face models, and this is a model of the {policy.family} family; "
            "leave `adapter` out, so that all of its weights train"
        )
    needs("peft", "adapter")
    from self_rewarding_lm_pytorch.models.huggingface_planned_adapter import PlannedAdapterPolicy

    return PlannedAdapterPolicy.new(
        policy.module,
        getattr(policy, "tokenizer", None),
        arguments,
        seed=seeds.address(seed, "adapter"),
        is_merged=is_merged,
        base=base,
    )


def quantization(kind: str, compute_dtype: torch.dtype) -> Any:
    """transformers' settings for `4bit` (NF4, double quantization) or `8bit`.

    Raises ConfigError without bitsandbytes.
    """
    needs("bitsandbytes", f"adapter: quantize: {kind}")
    import transformers

    if kind == "8bit":
        # It says at each layer of each call that its products are float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def compute_alike(module: Any) -> None:
    """Keeps bitsandbytes' layers of 4 bits from another, rounder way of computing on some CPUs.

    They change to it, for good, when they are first evaluated, and back when they are saved: a model's
    log-probs would depend on what was done with it before.
    """
    for part in module.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False


def needs(package: str, what: str) -> None:
    """Raises ConfigError where an optional package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}, which is not installed; run: pip install {package}")
    # peft loads bitsandbytes, which misses a library there for a way of computing that is not used here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

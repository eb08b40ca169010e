"""What can be told of a Hugging Face model from its configuration and tokenizer alone, if they are here."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.adapters import base_of, is_adapter_folder
from self_rewarding_lm_pytorch.models.outline import Outline, outline_of


def local_outline(source: str) -> Outline | None:
    """Of a folder, or of what the hub's cache holds; None where neither is here, or its code is its own.

    Nothing is fetched, no weight is read: the model is built on torch's "meta" device, which holds shapes
    alone. An adapter's folder gives the model that it names. Raises ConfigError for a configuration that is
    there and cannot be used.
    """
    import transformers

    if is_adapter_folder(Path(source)):
        source = base_of(Path(source))
    config = _local(transformers.AutoConfig, source)
    if config is None or (getattr(config, "auto_map", None) and _has_own_code(config)):
        return None
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return outline_of(transformers.AutoModelForCausalLM.from_config(config))
    except Exception as error:  # of many kinds
        raise ConfigError(
            f"model {source!r}: its config.json gives no model that writes text: "
            f"{' '.join(str(error).split()):.300}; give the folder of a causal language model"
        ) from error


def local_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or of the hub's cache; None where it is not here."""
    import transformers

    if is_adapter_folder(Path(source)) and not (Path(source) / "tokenizer_config.json").is_file():
        source = base_of(Path(source))
    return _local(transformers.AutoTokenizer, source)


def _local(kind: Any, source: str) -> Any:
    with contextlib.suppress(
        OSError, ValueError, KeyError
    ):  # not here, or not to be had without its own code
        return kind.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    return None


def _has_own_code(config: Any) -> bool:
    return "AutoModelForCausalLM" in config.auto_map

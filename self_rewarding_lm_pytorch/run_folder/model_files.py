"""What a model is, so that another one under its name is known: the hashes of its files or weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from self_rewarding_lm_pytorch.models.checkpoint_files import notes_of

_SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".py", ".bin")


def model_notes(folder: Path, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """The files of a model's folder: weights, configuration, tokenizer. known: as of the last time."""
    notes = {}
    for suffix in _SUFFIXES:
        notes.update(notes_of(folder, known, pattern=f"*{suffix}"))
    return notes


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a state dict."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()

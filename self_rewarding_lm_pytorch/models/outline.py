"""A model's sizes, without its weights: what it takes in memory and on disk can be told from them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Outline:
    """Shapes of a decoder. Widths are None where the model's configuration does not tell them."""

    parameters: dict[str, Shape]  # each once, tied ones too
    linears: dict[str, Shape]  # (out, in) of the linear layers but the output layer
    dtype: str | None = None  # of the weights as they are, or were saved
    context: int | None = None  # positions
    vocab_size: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_layers: int | None = None
    key_value_size: int | None = None  # of all heads of a layer, keys alone

    @property
    def num_parameters(self) -> int:
        return sum(map(prod, self.parameters.values()))

    @property
    def num_in_linears(self) -> int:
        """Parameters of the linear layers but the output layer: those that quantization takes."""
        return sum(map(prod, self.linears.values()))


def outline_of(module: nn.Module) -> Outline:
    """Of a module, on whatever device, "meta" too."""
    config: Any = getattr(module, "config", None)
    known = config.get_text_config() if hasattr(config, "get_text_config") else None
    output: Any = getattr(module, "get_output_embeddings", lambda: None)()
    linears: dict[str, Shape] = {
        name: (part.out_features, part.in_features)
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part is not output
    }
    parameters = {name: tuple(part.shape) for name, part in module.named_parameters()}
    first = next(module.parameters(), None)
    is_real = first is not None and first.device.type != "meta"
    dtype = first.dtype if first is not None and is_real else getattr(config, "dtype", None)
    return Outline(
        parameters,
        linears,
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        context=_number(known, "max_position_embeddings", "n_positions"),
        vocab_size=_number(known, "vocab_size"),
        hidden_size=_number(known, "hidden_size", "n_embd"),
        intermediate_size=_intermediate(known),
        num_layers=_number(known, "num_hidden_layers", "n_layer"),
        key_value_size=_key_value_size(known),
    )


def _number(config: Any, *names: str) -> int | None:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)


def _intermediate(config: Any) -> int | None:
    size = _number(config, "intermediate_size", "n_inner", "ffn_dim")
    hidden = _number(config, "hidden_size", "n_embd")
    return size if size is not None or hidden is None else 4 * hidden


def _key_value_size(config: Any) -> int | None:
    hidden, heads = _number(config, "hidden_size", "n_embd"), _number(config, "num_attention_heads", "n_head")
    if hidden is None or not heads:
        return None
    size = _number(config, "head_dim") or hidden // heads
    return size * (_number(config, "num_key_value_heads") or heads)

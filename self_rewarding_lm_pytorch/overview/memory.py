"""Memory that a stage takes on one device, from shapes alone.

Weights, gradients and the optimizer's states are exact for tensors that torch allocates; quantized weights,
8-bit states, activations and the cache are estimates, whose formulas stand at the functions. Buffers of
libraries, what an allocator keeps aside and what is loaded for a moment (a reference that is asked once) are
not counted: leave a tenth or two.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from self_rewarding_lm_pytorch.models.logprobs import CHUNK_ELEMENTS
from self_rewarding_lm_pytorch.models.outline import Outline, Shape
from self_rewarding_lm_pytorch.stages.adapter_settings import AdapterSettings
from self_rewarding_lm_pytorch.training.settings import TrainSettings

_SIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_STEP = 4  # each tensor's own count of steps, one float32
_NF4_BITS = 4.127  # QLoRA (2305.14314), section 3: 4 bits, and 0.127 for constants quantized twice
_SMALLEST_8BIT = 4096  # elements; bitsandbytes keeps the states of smaller tensors in float32
_BLOCK_8BIT = 256  # elements that share a float32 constant there


@dataclass(frozen=True)
class Weights:
    """What a run trains, and what it holds beside that."""

    held: int  # bytes of all weights, an adapter's among them
    trained: dict[str, Shape]
    size: int  # bytes of a trained number
    computed: int  # bytes of a number in the forward pass
    copies: int = 0  # bytes of low-precision copies that mixed precision makes of the weights

    @property
    def trained_bytes(self) -> int:
        return self.size * sum(map(prod, self.trained.values()))


def weight_size(outline: Outline, dtype: str) -> int:
    """Bytes of a weight that is not quantized."""
    return _SIZES.get(outline.dtype or "float32" if dtype == "auto" else dtype, 4)


def weights_of(
    outline: Outline, dtype: str, *, adapter: AdapterSettings | None = None, mixed: str | None = None
) -> Weights:
    """dtype: of the plan, `auto` is as the weights were saved. mixed: accelerate's mixed_precision."""
    size = weight_size(outline, dtype)
    whole = size * outline.num_parameters
    computed = 2 if mixed in ("bf16", "fp16") else size
    if adapter is None:
        copies = 2 * outline.num_parameters if mixed in ("bf16", "fp16") and size > 2 else 0
        return Weights(whole, outline.parameters, size, computed, copies)
    trained = adapter_shapes(outline, adapter)
    bits = {"4bit": _NF4_BITS, "8bit": 8.0, None: 8.0 * size}[adapter.quantize]
    base = whole - size * outline.num_in_linears + int(outline.num_in_linears * bits / 8)
    own = 4 * sum(map(prod, trained.values()))
    copies = 2 * outline.num_parameters if mixed in ("bf16", "fp16") and bits > 16 else 0
    return Weights(base + own, trained, 4, computed, copies)


def adapter_shapes(outline: Outline, adapter: AdapterSettings) -> dict[str, Shape]:
    """The tensors of LoRA (2106.09685, section 4.1): r x in and out x r of each layer; float32.

    DoRA has a magnitude for each output beside them; modules_to_save train whole.
    """
    found: dict[str, Shape] = {}
    names = adapter.target_modules
    for name, (outputs, inputs) in outline.linears.items():
        if names != "auto" and not any(name == wanted or name.endswith(f".{wanted}") for wanted in names):
            continue
        found |= {f"{name}.lora_A": (adapter.r, inputs), f"{name}.lora_B": (outputs, adapter.r)}
        found |= {f"{name}.magnitude": (outputs,)} if adapter.use_dora else {}
    for wanted in adapter.modules_to_save:
        found |= {n: shape for n, shape in outline.parameters.items() if f".{wanted}." in f".{n}"}
    return found


def optimizer_bytes(weights: Weights, train: TrainSettings) -> int:
    """What the optimizer holds from its first step on.

    AdamW: two states of each number (three with amsgrad); RMSProp: one, one more each with momentum and
    centered; both a count of steps for each tensor. adamw_8bit: a byte a state and a float32 for 256 of them,
    where a tensor has 4,096 numbers or more (2110.02861, section 2).
    """
    given, sizes = train.optimizer_kwargs, [prod(shape) for shape in weights.trained.values()]
    if train.optimizer == "adamw_8bit":
        large = sum(size for size in sizes if size >= _SMALLEST_8BIT)
        return 2 * (large + 4 * large // _BLOCK_8BIT) + 2 * 4 * (sum(sizes) - large)
    if train.optimizer == "rmsprop":
        states = 1 + bool(given.get("momentum")) + bool(given.get("centered"))
    else:
        states = 2 + bool(given.get("amsgrad"))
    return states * weights.trained_bytes + _STEP * len(sizes)


def activation_bytes(outline: Outline, tokens: int, size: int, *, is_recomputed: bool = False) -> int | None:
    """Kept for the backward pass of a forward pass over so many tokens; None where the widths are not known.

    A layer of a Llama keeps, for each token, about 10 rows of the hidden size (inputs, norms, attention),
    4 of keys and values and 5 of the feed-forward size: size * tokens * (10 h + 4 kv + 5 f). Attention is
    counted as computed in blocks, without its square. Recomputed: one row a layer, and one layer in full. The
    logits come on top, at most CHUNK_ELEMENTS at once, in float32 three times: they, log-softmax, gradient.
    """
    widths = outline.hidden_size, outline.key_value_size, outline.intermediate_size, outline.num_layers
    if any(width is None for width in widths):
        return None
    hidden, keys, inner, layers = (width or 0 for width in widths)
    layer = 10 * hidden + 4 * keys + 5 * inner
    rows = layers * hidden + layer if is_recomputed else layers * layer
    logits = min(tokens * (outline.vocab_size or 0), CHUNK_ELEMENTS)
    return size * tokens * (rows + 4 * hidden) + 3 * 4 * logits


def cache_bytes(outline: Outline, positions: int, size: int) -> int | None:
    """Keys and values of so many positions, 2 * size * layers * kv each; None where those are not known."""
    if outline.num_layers is None or outline.key_value_size is None:
        return None
    return 2 * size * outline.num_layers * outline.key_value_size * positions


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. None: not known of this model. What trains is parted among `shards` devices."""

    weights: int
    gradients: int = 0
    optimizer: int = 0
    reference: int = 0  # a second model that is held while the stage trains
    judge: int = 0  # another model that judges
    activations: int | None = 0
    cache: int | None = 0
    copies: int = 0
    is_online: bool = False  # samples while the optimizer is there
    shards: int = 1

    @property
    def training(self) -> int | None:
        """While a step is under way; None where nothing trains or the activations are not known."""
        if self.activations is None or not self.gradients:
            return None
        parted = (self.weights + self.gradients + self.optimizer + self.reference) // self.shards
        return parted + self.judge * self.is_online + self.activations + self.copies

    @property
    def sampling(self) -> int | None:
        """While it samples and judges, where it does; every device holds the whole model then."""
        if self.cache is None or not self.cache:
            return None
        beside = self.optimizer // self.shards + self.reference if self.is_online else 0
        return self.weights + beside + self.judge + self.cache

    @property
    def peak(self) -> int | None:
        """The larger of both; None where neither is known."""
        return max((part for part in (self.training, self.sampling) if part is not None), default=None)

    def as_dict(self) -> dict[str, Any]:
        names = ("weights", "gradients", "optimizer", "reference", "judge", "activations", "cache", "copies")
        parts = {f"{name}_bytes": getattr(self, name) for name in names}
        whole = {f"{name}_bytes": getattr(self, name) for name in ("training", "sampling", "peak")}
        return {**parts, **whole, "shards": self.shards}

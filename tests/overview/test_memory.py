"""What `plan` says of memory, beside what torch allocates in a real training."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from self_rewarding_lm_pytorch.models.huggingface_outline import local_outline, local_tokenizer
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs
from self_rewarding_lm_pytorch.models.outline import outline_of
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.overview.memory import (
    Memory,
    activation_bytes,
    adapter_shapes,
    cache_bytes,
    optimizer_bytes,
    weights_of,
)
from self_rewarding_lm_pytorch.records import SequenceBatch
from self_rewarding_lm_pytorch.stages.adapter_settings import AdapterSettings
from self_rewarding_lm_pytorch.training.optimizer import make_optimizer
from self_rewarding_lm_pytorch.training.settings import TrainSettings

SIZES = {"vocab_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = {"hidden_size": 64, "intermediate_size": 172, "num_key_value_heads": 2, **SIZES}
FAMILIES: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SMALL),
    "tied": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=16),
    "gemma2": lambda: transformers.Gemma2Config(**SMALL, head_dim=16),
    "gpt2": lambda: transformers.GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=512, bos_token_id=1, eos_token_id=2
    ),
}


def made(family: str, dtype: torch.dtype = torch.float32) -> Any:
    return transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).to(dtype).train()


def batch(rows: int, length: int) -> SequenceBatch:
    ids = torch.randint(3, 512, (rows, length))
    is_target = torch.ones_like(ids, dtype=torch.bool)
    is_target[:, : length // 4] = False
    return SequenceBatch(ids, is_target, torch.full((rows,), length))


def nbytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def kept_for_backward(policy: Policy, items: SequenceBatch) -> tuple[Tensor, int]:
    """The loss, and the bytes that autograd holds beside the weights until the backward pass."""
    own = {tensor.untyped_storage().data_ptr() for tensor in policy.module.state_dict().values()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = -sequence_logprobs(policy, items).sum()
    return loss, sum(sizes.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer_kwargs": {"amsgrad": True}},
        {"optimizer": "rmsprop"},
        {"optimizer": "rmsprop", "optimizer_kwargs": {"momentum": 0.9, "centered": True}},
    ],
    ids=["adamw", "amsgrad", "rmsprop", "rmsprop with momentum"],
)
def test_weights_gradients_and_optimizer_are_what_torch_allocates(
    family: str, settings: dict[str, Any]
) -> None:
    module, train = made(family), TrainSettings(**settings)
    weights = weights_of(outline_of(module), "float32")
    assert weights.held == nbytes(module.parameters())
    optimizer = make_optimizer(module, train)
    loss, _ = kept_for_backward(policy_for(module), batch(2, 16))
    loss.backward()
    assert weights.trained_bytes == nbytes(p.grad for p in module.parameters())
    optimizer.step()
    held = [part for state in optimizer.state.values() for part in state.values()]
    assert optimizer_bytes(weights, train) == nbytes(part for part in held if isinstance(part, Tensor))


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_of_the_right_order(family: str) -> None:
    module = made(family)
    _, kept = kept_for_backward(policy_for(module), batch(8, 64))
    said = activation_bytes(outline_of(module), 8 * 64, 4)
    assert said is not None
    assert 1 / 3 < said / kept < 3, (said, kept)


def test_recomputed_layers_keep_far_less_and_the_estimate_says_so() -> None:
    module = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{**SMALL, "num_hidden_layers": 8})
    ).train()
    policy, items = policy_for(module), batch(4, 64)
    _, whole = kept_for_backward(policy, items)
    with policy.recomputing(True):
        _, fewer = kept_for_backward(policy, items)
    outline = outline_of(module)
    assert fewer < whole / 3
    assert (activation_bytes(outline, 256, 4, is_recomputed=True) or 0) < (
        activation_bytes(outline, 256, 4) or 0
    ) / 3


def test_bfloat16_weights_take_half_and_mixed_precision_takes_copies_on_top() -> None:
    outline = outline_of(made("llama"))
    whole, half = weights_of(outline, "float32"), weights_of(outline, "bfloat16")
    assert (half.held, half.trained_bytes) == (whole.held // 2, whole.trained_bytes // 2)
    mixed = weights_of(outline, "float32", mixed="bf16")
    assert (mixed.held, mixed.computed, mixed.copies) == (whole.held, 2, whole.held // 2)
    saved = weights_of(outline_of(made("llama", torch.bfloat16)), "auto")
    assert saved.held == nbytes(made("llama", torch.bfloat16).parameters())


@pytest.mark.parametrize(
    "adapter",
    [{}, {"r": 4, "target_modules": ["q_proj", "v_proj"]}, {"use_dora": True}],
    ids=["all linear", "two of them", "dora"],
)
def test_an_adapters_tensors_are_those_that_peft_makes(adapter: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    module, settings = made("llama"), AdapterSettings(**adapter)
    outline = outline_of(module)
    adapted = peft.get_peft_model(module, peft.LoraConfig(**settings.peft_arguments()))
    trained = sorted(tuple(p.shape) for p in adapted.parameters() if p.requires_grad)
    assert sorted(adapter_shapes(outline, settings).values()) == trained
    weights = weights_of(outline, "float32", adapter=settings)
    assert weights.held == nbytes(adapted.parameters())
    assert weights.trained_bytes == 4 * sum(map(prod, trained))


def test_quantized_weights_take_an_eighth_of_float32s_layers_alone() -> None:
    outline = outline_of(made("llama"))
    whole = weights_of(outline, "float32", adapter=AdapterSettings())
    four = weights_of(outline, "float32", adapter=AdapterSettings(quantize="4bit"))
    assert whole.held - four.held == pytest.approx(outline.num_in_linears * (4 - 4.127 / 8), abs=2)


def test_8_bit_states_take_a_byte_each_and_small_tensors_four() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large, self.small = nn.Parameter(torch.zeros(64, 128)), nn.Parameter(torch.zeros(100))

    weights = weights_of(outline_of(Two()), "float32")
    assert (
        optimizer_bytes(weights, TrainSettings(optimizer="adamw_8bit")) == 2 * (8192 + 4 * 32) + 2 * 4 * 100
    )


def test_the_caches_size_is_that_of_the_models_own_cache() -> None:
    module = made("llama").eval()
    ids = torch.randint(3, 512, (3, 20))
    cache = module(ids, use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes(outline_of(module), 60, 4) == held


def test_a_plain_modules_weights_are_known_and_its_activations_are_not() -> None:
    outline = outline_of(nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8)))
    assert outline.num_parameters == 8 * 4 + 4 * 8 + 8
    assert activation_bytes(outline, 100, 4) is None
    assert cache_bytes(outline, 100, 4) is None


def test_the_peak_is_the_larger_of_training_and_sampling() -> None:
    both = Memory(100, gradients=100, optimizer=200, activations=50, cache=500)
    assert (both.training, both.sampling, both.peak) == (450, 600, 600)
    online = Memory(100, 100, 200, reference=100, activations=50, cache=500, is_online=True)
    assert (online.training, online.sampling) == (550, 900), "its optimizer is there while it samples"
    unknown = Memory(100, gradients=100, activations=None, cache=None)
    assert (unknown.training, unknown.sampling, unknown.peak) == (None, None, None)


def test_shards_part_what_trains_and_nothing_else() -> None:
    parted = Memory(100, 100, 200, activations=50, cache=500, shards=4)
    assert (parted.training, parted.sampling) == (150, 600)


def test_shapes_come_from_a_configuration_alone(tmp_path: Path) -> None:
    """70 B parameters: nothing of them is allocated."""
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "vocab_size": 32000}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8}
    transformers.LlamaConfig(**sizes, **heads, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    outline = local_outline(str(tmp_path))
    assert outline is not None
    assert outline.num_parameters == 68_976_648_192
    assert (outline.context, outline.key_value_size) == (2048, 1024)
    assert local_outline(str(tmp_path / "gone")) is None
    assert local_tokenizer(str(tmp_path / "gone")) is None


def test_code_that_a_folder_brings_is_not_run(tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "c.py").write_text("raise SystemExit('run')\n")
    assert local_outline(str(tmp_path)) is None

"""QLoRA: an adapter on a model whose own weights are of 4 or 8 bits (bitsandbytes), which never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.huggingface_caches import HuggingFaceSharedCache
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.pipeline.models import model
from self_rewarding_lm_pytorch.run_folder.model_files import weights_hash
from tests.helpers import byte_codec
from tests.models.test_adapters import same, stirred, tensors
from tests.models.test_caches import PREFIX, live_through
from tests.models.test_forks import PAIRS, collate_pairs, found
from tests.stages import worlds
from tests.stages.worlds import QUIET, weights
from tests.test_resume import Deadly, in_a_fork, needs_fork
from tests.test_text_huggingface import byte_level_tokenizer

pytest.importorskip("peft")
bitsandbytes = pytest.importorskip("bitsandbytes")

IDS = torch.arange(48).view(2, 24) * 7 % 256


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.1,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    place: Path = tmp_path_factory.mktemp("model") / "base"
    llama().save_pretrained(place)
    byte_level_tokenizer(None).save_pretrained(place)
    try:
        load_policy(str(place), quantize="4bit")[0].logits(IDS)
    except (ConfigError, RuntimeError, NotImplementedError) as error:
        pytest.skip(f"bitsandbytes cannot compute with 4 bits on this machine: {error}")
    return place


def plan(place: Path, base: Path, *names: str, kind: str = "4bit", **changes: Any) -> dict[str, Any]:
    adapter = {"r": 2, "quantize": kind, "between_stages": "carried"}
    return worlds.plan(
        place, *(names or ("given",)), model=str(base), tokenizer=byte_codec(), adapter=adapter, **changes
    )


def quantized(base: Path, kind: str = "4bit") -> Any:
    policy = model(load_plan(plan(Path("r"), base, kind=kind)))[0]
    policy.module.eval()
    return policy


def packed(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters() if not p.is_floating_point()}


@pytest.mark.parametrize(("kind", "off"), [("4bit", 0.4), ("8bit", 0.05)])
def test_only_the_adapter_trains_and_the_model_is_nearly_the_whole_one(
    kind: str, off: float, folder: Path
) -> None:
    policy = quantized(folder, kind)
    assert len(packed(policy.module)) == 14, "seven linear layers in each of two blocks"
    trained = {name: p for name, p in policy.module.named_parameters() if p.requires_grad}
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert len(trained) == 28
    with policy.evaluating():
        here, there = policy.logits(IDS), llama()(IDS).logits
    distance = float((here - there).norm() / there.norm())
    assert 0 < distance < off


def test_four_bits_are_nf4_with_double_quantization(folder: Path) -> None:
    state = quantized(folder).model.model.layers[0].self_attn.q_proj.weight.quant_state
    assert state.quant_type == "nf4"
    assert state.nested
    assert state.dtype == torch.float32


def test_caches_and_forked_rows_are_right_on_quantized_weights(folder: Path) -> None:
    policy = stirred(quantized(folder))
    assert policy.cache_kind is HuggingFaceSharedCache
    live_through(policy, policy.cache_kind, PREFIX)
    assert policy.can_fork
    forked, gradients = found(policy, collate_pairs(PAIRS, fork_width=64))
    apart, expected = found(policy, collate_pairs(PAIRS))
    assert torch.allclose(forked, apart, atol=1e-3, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        scale = float(expected[key].abs().max())
        assert torch.allclose(gradient, expected[key], atol=1e-3 * max(1.0, scale)), key


def test_what_was_done_with_the_model_before_changes_nothing(folder: Path) -> None:
    """bitsandbytes packs weights anew, and computes in bfloat16, once they are evaluated on some CPUs."""
    policy = quantized(folder)
    policy.module.train()
    first = policy.logits(IDS)
    with policy.evaluating():
        assert torch.equal(policy.logits(IDS), first)
    policy.module.state_dict()
    assert torch.equal(policy.logits(IDS), first)


def test_layers_are_computed_again_with_the_same_gradients(folder: Path) -> None:
    policy = stirred(quantized(folder))
    policy.module.train()
    sides = []
    for wanted in (True, False):
        with policy.recomputing(wanted):
            sides.append(found(policy, collate_pairs(PAIRS, fork_width=64)))
    (again, gradients), (kept, expected) = sides
    assert torch.equal(again, kept)
    assert all(torch.allclose(gradients[key], expected[key], rtol=1e-4) for key in expected)


def test_a_quantized_model_can_be_copied_hashed_and_put_back(folder: Path) -> None:
    policy = quantized(folder)
    hashed = weights_hash(policy.module)
    assert weights_hash(quantized(folder).module) == hashed
    twin = stirred(quantized(folder))
    before = tensors(twin.module)
    twin.module.load_state_dict(policy.module.state_dict())
    assert weights_hash(twin.module) == hashed
    assert not same(tensors(twin.module), before)
    with policy.evaluating():
        assert torch.equal(policy.copy().logits(IDS), policy.logits(IDS))


@needs_fork
def test_a_killed_run_on_four_bits_ends_bit_for_bit_and_its_adapter_is_found(
    folder: Path, tmp_path: Path
) -> None:
    def settings(name: str) -> dict[str, Any]:
        given = plan(tmp_path / name, folder, "given", "text", save_every_seconds=0)
        given["stages"][1] |= {"gradient_checkpointing": True}
        return given

    run(settings("whole"), reporter=QUIET)
    expected = weights(tmp_path / "whole")
    assert len(expected) == 2
    assert in_a_fork(lambda: run(settings("broken"), reporter=Deadly("training", 3)))
    run(settings("broken"), reporter=QUIET)
    assert weights(tmp_path / "broken") == expected
    last = next((tmp_path / "broken").glob("stages/02-*/checkpoint"))
    loaded, own = load_policy(str(last))[0], quantized(folder)
    assert not packed(loaded.module), "alone it is put on the whole model"
    own.restore(last)
    with loaded.evaluating(), own.evaluating():
        one, other = loaded.logits(IDS), own.logits(IDS)
    assert float((one - other).norm() / one.norm()) < 0.4


@pytest.mark.parametrize(
    "change",
    [
        {"reference": "ema", "reference_ema_decay": 0.5},
        {"reference": "refresh", "reference_refresh_every": 1},
        {"reference": "initial"},
        {"reference": "adapter_off"},
        {"early_stopper": "tests.models.test_adapters_quantized:lower", "early_stop_every": 1},
    ],
    ids=str,
)
def test_every_reference_works_on_four_bits_and_the_packed_weights_stay(
    change: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    given = plan(tmp_path, folder)
    stage = given["stages"][0]
    stopper = {key: value for key, value in change.items() if key == "early_stopper"}
    rest = {key: value for key, value in change.items() if key != "early_stopper"}
    given["stages"][0] = {**stage, "epochs": 2, **stopper, **rest}
    assert run(given, reporter=QUIET)["status"] == "completed"


def lower(module: nn.Module) -> float:
    return -sum(float(p.abs().sum()) for p in module.parameters() if p.requires_grad)


def test_a_model_saved_quantized_takes_an_adapter_and_is_not_merged(folder: Path, tmp_path: Path) -> None:
    policy, codec = load_policy(str(folder), quantize="4bit")
    assert codec is not None
    policy.save(tmp_path / "packed")
    given = plan(tmp_path / "r", tmp_path / "packed")
    given["adapter"] = {"r": 2}
    assert run(given, reporter=QUIET)["status"] == "completed"
    merged = plan(tmp_path / "m", tmp_path / "packed")
    merged["adapter"] = {"r": 2, "between_stages": "merged"}
    with pytest.raises(ConfigError, match="was saved quantized"):
        run(merged, reporter=QUIET)


def test_a_run_on_eight_bits_trains_its_adapter(folder: Path, tmp_path: Path) -> None:
    run(plan(tmp_path, folder, kind="8bit"), reporter=QUIET)
    (trained,) = weights(tmp_path)
    state = quantized(folder, "8bit")
    before = tensors(state.module)
    state.restore((tmp_path / trained).parent)
    changed = [
        name for name, tensor in tensors(state.module).items() if not torch.equal(tensor, before[name])
    ]
    assert changed
    assert all("lora_" in name for name in changed)

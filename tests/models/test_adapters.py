"""A policy with an adapter of peft: the model inside does the work, and the adapter can be switched off."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch import load_checkpoint
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.huggingface_caches import HuggingFaceSharedCache
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import byte_codec, hugging_face, recurrent, whole_logits, x_transformer
from tests.models.test_caches import PREFIX, live_through
from tests.models.test_forks import PAIRS, collate_pairs, found
from tests.stages import worlds

peft = pytest.importorskip("peft")

IDS = torch.tensor([[3, 7, 1, 4, 4, 2], [5, 2, 9, 9, 8, 2]])
BASES = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"], "gemma2": ["q_proj", "v_proj"]}


def lora(base: str = "llama", **changes: Any) -> Any:
    """An adapter as peft makes it: it changes nothing yet."""
    torch.manual_seed(5)
    settings = {"r": 4, "target_modules": BASES[base], "task_type": "CAUSAL_LM", **changes}
    module: Any = hugging_face(base, dtype=torch.float32).module
    return policy_for(peft.get_peft_model(module, peft.LoraConfig(**settings)))


def stirred(policy: Any) -> Any:
    """As if it had been trained: every tensor that trains is moved."""
    with torch.no_grad():
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    return policy


def trained_lora(base: str = "llama", **changes: Any) -> Any:
    return stirred(lora(base, **changes))


KINDS: dict[str, Callable[[], Any]] = {
    **{name: partial(trained_lora, name) for name in BASES},
    "dora": partial(trained_lora, use_dora=True),
    "adapted head": partial(trained_lora, target_modules=["q_proj", "lm_head"]),
    "saved modules": partial(trained_lora, modules_to_save=["lm_head", "norm"]),
    "adapted embedding": partial(trained_lora, target_modules=["embed_tokens", "q_proj"]),
}


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_the_adapted_models_own(name: str) -> None:
    policy = KINDS[name]()
    with policy.evaluating():
        assert policy.has_plain_head == (name != "gemma2")  # whose logits are capped
        assert torch.allclose(policy.logits(IDS), whole_logits(policy, IDS), atol=1e-5)  # kernels


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_sampled_by_the_shared_cache_and_it_is_right(name: str) -> None:
    policy = KINDS[name]()
    assert policy.cache_kind is HuggingFaceSharedCache
    live_through(policy, policy.cache_kind, PREFIX)


@pytest.mark.parametrize("name", KINDS)
def test_forked_rows_have_the_gradients_of_separate_rows_and_adapters_alone_have_any(name: str) -> None:
    policy = KINDS[name]()
    assert policy.can_fork
    forked, gradients = found(policy, collate_pairs(PAIRS, fork_width=64))
    apart, expected = found(policy, collate_pairs(PAIRS))
    # float32; log-probs are down to -100 and gradients up to some hundreds.
    assert torch.allclose(forked, apart, atol=1e-3, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    assert gradients.keys() == {n for n, p in policy.module.named_parameters() if p.requires_grad}
    assert all("lora_" in key or ".modules_to_save." in key for key in gradients)
    for key, gradient in gradients.items():
        scale = float(expected[key].abs().max())
        assert torch.allclose(gradient, expected[key], atol=1e-3 * max(1.0, scale)), key


def test_layers_are_computed_again_with_an_adapter_too() -> None:
    policy = trained_lora(lora_dropout=0.1)
    policy.module.train()
    sides = []
    for wanted in (True, False):
        torch.manual_seed(1)
        with policy.recomputing(wanted):
            sides.append(found(policy, collate_pairs(PAIRS, fork_width=64)))
    (again, gradients), (kept, expected) = sides
    assert torch.equal(again, kept)
    assert all(torch.allclose(gradients[key], expected[key], rtol=1e-4) for key in expected)
    assert gradients.keys() == expected.keys()


@pytest.mark.parametrize("name", KINDS)
def test_without_its_adapter_it_is_the_base_model(name: str) -> None:
    policy, base = KINDS[name](), hugging_face(name if name in BASES else "llama", dtype=torch.float32)
    flags = [parameter.requires_grad for parameter in policy.module.parameters()]
    with policy.evaluating():
        adapted = policy.logits(IDS)
        with policy.without_adapter():
            assert torch.equal(policy.logits(IDS), base.logits(IDS))
        assert torch.equal(policy.logits(IDS), adapted)
        assert not torch.allclose(adapted, base.logits(IDS), atol=1e-2)
    with pytest.raises(RuntimeError, match="stop"), policy.without_adapter():
        raise RuntimeError("stop")
    assert [parameter.requires_grad for parameter in policy.module.parameters()] == flags
    twin = policy.copy()
    with twin.without_adapter():
        pass
    assert not any(parameter.requires_grad for parameter in twin.module.parameters())


def test_a_reference_between_forward_and_backward_pass_changes_no_gradient() -> None:
    def gradients(*, with_reference: bool) -> dict[str, Tensor]:
        policy.module.zero_grad()
        loss = policy.features(IDS).square().sum()
        if with_reference:
            with policy.evaluating(), policy.without_adapter():
                policy.features(IDS)
        loss.backward()
        return {n: p.grad.clone() for n, p in policy.module.named_parameters() if p.grad is not None}

    policy = trained_lora()
    assert any(gradient.any() for gradient in gradients(with_reference=False).values())
    assert same(gradients(with_reference=True), gradients(with_reference=False))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_dora": True},
        {"modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"lora_dropout": 0.5},
    ],
    ids=str,
)
def test_a_new_adapter_changes_nothing_so_the_model_without_it_is_the_policy(changes: dict[str, Any]) -> None:
    policy = lora(**changes)
    policy.module.train()
    flags = [parameter.requires_grad for parameter in policy.module.parameters()]
    assert policy.adapter_fault() == ""
    assert [parameter.requires_grad for parameter in policy.module.parameters()] == flags
    assert policy.module.training


@pytest.mark.parametrize("name", KINDS)
def test_a_trained_adapter_is_a_fault_with_its_name_and_the_remedy(name: str) -> None:
    fault = KINDS[name]().adapter_fault()
    assert "(default) already changes" in fault
    assert "reference: stage_start" in fault


def test_one_trained_embedding_that_no_probe_reads_is_found() -> None:
    """A probe of 128 tokens reads half of this vocabulary; an embedding is compared for each token."""
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    policy: Any = policy_for(peft.get_peft_model(worlds.hugging_face(), config))
    embedding = policy.model.get_input_embeddings()
    own, base = embedding.modules_to_save["default"].weight, embedding.original_module.weight
    for token in range(policy.vocab_size):
        with torch.no_grad():
            own[token] += 0.1
            assert "already changes" in policy.adapter_fault()
            own[token] = base[token]
    assert policy.adapter_fault() == ""


def test_tensors_that_stay_in_force_without_the_adapter_are_named() -> None:
    policy = lora("gpt2", bias="all")  # peft's folder holds biases, but its switch leaves them on
    fault = policy.adapter_fault()
    assert "base_model.model.transformer.h.0.ln_1.bias" in fault
    assert "more of the model would train" in fault


def test_models_without_an_adapter_say_so_and_what_to_do() -> None:
    for policy in (hugging_face(), x_transformer(), recurrent()):
        assert f"this {policy.family} model has no adapter" in policy.adapter_fault()
        with pytest.raises(ConfigError, match=r"reference: stage_start.*peft\.get_peft_model"):
            policy.without_adapter()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


FRESH: dict[str, Callable[[], Any]] = {
    **{name: partial(lora, name) for name in BASES},
    "dora": partial(lora, use_dora=True),
    "saved modules": partial(lora, modules_to_save=["lm_head", "norm"]),
    "adapted embedding": partial(lora, target_modules=["embed_tokens", "q_proj"]),
    "biases": partial(lora, "gpt2", bias="all"),
}


@pytest.mark.parametrize("name", FRESH)
def test_a_checkpoint_comes_back_exactly_and_peft_loads_it_onto_the_base(name: str, tmp_path: Path) -> None:
    policy, other, third = stirred(FRESH[name]()), FRESH[name](), FRESH[name]()
    policy.save(tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in tmp_path.iterdir()}
    assert not same(tensors(other.module), tensors(policy.module))
    other.restore(tmp_path)
    assert same(tensors(other.module), tensors(policy.module))
    load_checkpoint(third.module, tmp_path)
    assert same(tensors(third.module), tensors(policy.module))
    base = hugging_face(
        name if name in BASES else "gpt2" if name == "biases" else "llama", dtype=torch.float32
    )
    loaded = peft.PeftModel.from_pretrained(base.module, tmp_path).eval()
    with policy.evaluating():
        assert torch.equal(loaded(IDS).logits, policy.module(IDS).logits)


def test_two_adapters_are_kept_both(tmp_path: Path) -> None:
    def two() -> Any:
        policy = lora()
        policy.module.add_adapter("other", peft.LoraConfig(r=2, target_modules=["v_proj"]))
        return policy

    policy, again = two(), two()
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            if "lora_" in name:
                parameter.add_(1.0)
    policy.save(tmp_path)
    again.restore(tmp_path)
    assert same(tensors(again.module), tensors(policy.module))


def test_a_folder_of_another_adapter_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    lora(target_modules=["q_proj"]).save(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"missing: \[.*down_proj.*unknown or of another base model: \[\]"
    ):
        lora().restore(tmp_path)
    with pytest.raises(CheckpointError, match=r"unknown or of another base model: \[.*q_proj"):
        lora(target_modules=["v_proj"]).restore(tmp_path)
    policy = lora(target_modules=["q_proj"])
    trained_lora(target_modules=["q_proj"], modules_to_save=["lm_head"]).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing: \[\].*another base model: \[.*lm_head"):
        policy.restore(tmp_path)
    assert policy.adapter_fault() == "", "nothing was changed"
    lora(target_modules=["q_proj"]).save(tmp_path)
    with pytest.raises(CheckpointError, match="size mismatch"):
        lora(target_modules=["q_proj"], r=2).restore(tmp_path)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors cannot be read"):
        lora().restore(tmp_path / "nowhere")


def test_a_tensor_that_its_folder_would_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    policy = lora()
    policy.model.model.norm.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"model\.norm\.weight of the model would train.*modules_to_save"):
        policy.save(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.norm\.weight"):
        policy_for(policy.module)
    assert "model.norm.weight of the model would train and stay in force" in policy.adapter_fault()


def test_a_copy_is_an_adapted_model_of_its_own_frozen() -> None:
    policy = trained_lora()
    twin = policy.copy()
    with policy.evaluating():
        before = twin.logits(IDS)
        assert torch.equal(before, policy.logits(IDS))
        stirred(policy)
        assert torch.equal(twin.logits(IDS), before)
        assert not torch.allclose(policy.logits(IDS), before, atol=1e-2)
        with twin.without_adapter():
            assert not torch.equal(twin.logits(IDS), before)
    assert not any(parameter.requires_grad for parameter in twin.module.parameters())


def test_dropout_reaches_the_adapters_own() -> None:
    policy = lora("gpt2", lora_dropout=0.25)
    drops = [drop for name, drop in policy.module.named_modules() if name.endswith("lora_dropout.default")]
    assert drops
    with policy.dropout(0.5):
        assert {drop.p for drop in drops} == {0.5}
    assert {drop.p for drop in drops} == {0.25}


def of_another_kind(config: Any) -> Any:
    return peft.get_peft_model(hugging_face("llama", dtype=torch.float32).module, config)


def test_adapters_that_act_outside_of_the_layers_are_refused() -> None:
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ConfigError, match=r"'default' \(PromptTuningConfig\) acts on the model's inputs"):
        policy_for(of_another_kind(prompt))
    with pytest.raises(ConfigError, match="something else than a Hugging Face"):
        policy_for(peft.get_peft_model(recurrent().module, peft.LoraConfig(target_modules=["out"])))


def test_a_merged_adapter_is_refused_as_it_would_not_train() -> None:
    policy = trained_lora()
    policy.module.merge_adapter()
    with pytest.raises(ConfigError, match="unmerge_adapter"):
        policy_for(policy.module)


def test_an_adapter_that_transformers_itself_holds_is_refused_with_the_way_to_load_it() -> None:
    module: Any = hugging_face("llama", dtype=torch.float32).module
    module.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ConfigError, match=r"PeftModel\.from_pretrained"):
        policy_for(module)


def test_a_run_trains_the_adapter_alone_and_its_checkpoint_comes_back(tmp_path: Path) -> None:
    def model() -> Any:
        torch.manual_seed(2)
        return peft.get_peft_model(
            worlds.hugging_face(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        )

    trained = model()
    before = tensors(trained)
    settings = worlds.plan(tmp_path / "r", "given", "own", model=trained, tokenizer=byte_codec())
    summary = run(settings, reporter=worlds.QUIET)
    assert summary["status"] == "completed"
    after = tensors(trained)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    fresh = model()
    load_checkpoint(fresh, tmp_path / "r" / summary["stages"][-1]["checkpoint"])
    assert same(tensors(fresh), after)
    again = model()
    settings = worlds.plan(tmp_path / "r", "given", "own", model=again, tokenizer=byte_codec())
    run(settings, reporter=worlds.QUIET)  # finished: it gives the weights back
    assert same(tensors(again), after)

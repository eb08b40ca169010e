"""What every family's policy must do: features and head, copies, dropout, modes, the door for modules."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.load import load_policy, policy_for
from tests.helpers import (
    HF_FAMILIES,
    VOCAB,
    X_FAMILIES,
    Recurrent,
    hugging_face,
    recurrent,
    whole_logits,
    x_transformer,
)

IDS = torch.tensor([[3, 7, 1, 4, 4, 2], [5, 2, 9, 9, 8, 2]])


@pytest.mark.parametrize("family", HF_FAMILIES)
def test_hugging_face_logits_are_the_models_own(family: str) -> None:
    policy = hugging_face(family, dtype=torch.float32)
    with policy.evaluating():
        assert torch.allclose(policy.logits(IDS), whole_logits(policy, IDS), atol=1e-5)  # kernels


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("cohere", {"num_key_value_heads": 2, "logit_scale": 0.25}),
        ("granite", {"num_key_value_heads": 2, "logits_scaling": 8.0}),
        ("gpt_neox", {}),
        ("opt", {"ffn_dim": 32, "word_embed_proj_dim": 16}),
        ("bloom", {"n_layer": 2, "n_head": 2}),
        ("phi", {}),
        ("gptj", {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4, "n_positions": 64}),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 8}),
        ("olmo2", {"num_key_value_heads": 2}),
        ("minicpm3", {}),
        ("falcon_h1", {"num_key_value_heads": 2, "lm_head_multiplier": 0.5}),
    ],
)
def test_other_hugging_face_heads_are_not_mistaken_for_plain_ones(family: str, sizes: dict[str, Any]) -> None:
    """Some families scale or cap their logits behind the output layer."""
    import transformers

    common = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,
        "pad_token_id": 0,
    }
    if family not in transformers.CONFIG_MAPPING or family in ("minicpm3",):
        pytest.skip(f"this transformers does not know {family}")
    config = transformers.CONFIG_MAPPING[family](**{**common, **sizes})
    policy = policy_for(transformers.AutoModelForCausalLM.from_config(config).eval())
    with policy.evaluating():
        assert torch.allclose(policy.logits(IDS), whole_logits(policy, IDS), atol=1e-4)


@pytest.mark.parametrize("family", X_FAMILIES)
def test_x_transformers_logits_are_the_models_own(family: str) -> None:
    policy = x_transformer(**X_FAMILIES[family])
    with policy.evaluating():
        assert torch.allclose(policy.logits(IDS), whole_logits(policy, IDS), atol=1e-10)


def test_limits_and_vocabulary_are_read_from_the_model() -> None:
    assert (x_transformer().max_length, x_transformer().vocab_size) == (64, VOCAB)
    for family in HF_FAMILIES:
        assert (hugging_face(family).max_length, hugging_face(family).vocab_size) == (64, VOCAB)
    assert (recurrent().max_length, recurrent().vocab_size) == (None, None)


@pytest.mark.parametrize("make", [recurrent, x_transformer, hugging_face])
def test_a_copy_is_frozen_and_stays_when_the_original_moves(make: Any) -> None:
    policy = make()
    policy.module.train()
    twin = policy.copy()
    with policy.evaluating():
        before = twin.logits(IDS)
        assert torch.allclose(before, policy.logits(IDS), atol=1e-5)
        for parameter in policy.module.parameters():
            parameter.add_(1.0)
        assert torch.equal(twin.logits(IDS), before)
        assert not torch.allclose(policy.logits(IDS), before, atol=1e-2)
    assert not any(p.requires_grad for p in twin.module.parameters())
    assert all(p.requires_grad for p in policy.module.parameters())
    assert not twin.module.training
    assert policy.module.training


@pytest.mark.parametrize("was_training", [True, False])
def test_evaluating_has_no_dropout_and_no_gradient_and_gives_the_mode_back(was_training: bool) -> None:
    policy = recurrent(dropout=0.5)
    policy.module.train(was_training)
    with policy.evaluating():
        first, second = policy.logits(IDS), policy.logits(IDS)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert policy.module.training is was_training


def dropouts_act(policy: Any) -> bool:
    policy.module.train()
    with torch.no_grad():
        return not torch.equal(policy.logits(IDS), policy.logits(IDS))


def hugging_face_attention_only() -> Any:
    """Llama's only dropout is the number its attention kernel takes; no nn.Dropout exists in it."""
    policy = hugging_face("llama")
    assert not any(isinstance(part, nn.Dropout) for part in policy.module.modules())
    return policy


def x_transformers_flash() -> Any:
    return x_transformer(attn_flash=True, dtype=torch.float32)


@pytest.mark.parametrize(
    "make",
    [
        lambda: recurrent(dropout=0.0),
        x_transformer,
        x_transformers_flash,
        hugging_face_attention_only,
        lambda: hugging_face("gpt2"),
    ],
    ids=["plain", "x-transformers", "x-transformers flash", "llama attention", "gpt2"],
)
def test_dropout_acts_for_a_while_and_comes_back(make: Any) -> None:
    policy = make()
    with policy.dropout(0.0):
        assert not dropouts_act(policy)
    with policy.dropout(0.3):
        assert dropouts_act(policy)
    before = {name: value for name, value in _settings(policy.module).items() if value}
    with pytest.raises(RuntimeError, match="stop"), policy.dropout(0.3):
        raise RuntimeError("stop")
    assert {name: value for name, value in _settings(policy.module).items() if value} == before


def _settings(module: nn.Module) -> dict[str, float]:
    return {
        f"{place}.{name}": float(value)
        for place, part in module.named_modules()
        for name, value in vars(part).items()
        if name in ("p", "dropout", "attention_dropout") and isinstance(value, float | int)
    }


def test_dropout_none_leaves_the_model_as_it_was_built() -> None:
    policy = recurrent(dropout=0.5)
    with policy.dropout(None):
        assert dropouts_act(policy)
    with policy.dropout(0.0):
        assert not dropouts_act(policy)
    assert dropouts_act(policy)


def test_attention_dropout_written_as_the_integer_0_can_be_switched_on_too() -> None:
    """Many config.json files on the hub say `"attention_dropout": 0`."""
    policy = hugging_face("llama")
    for part in policy.module.modules():
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0
    with policy.dropout(0.3):
        assert dropouts_act(policy)
    assert not dropouts_act(policy)


def test_each_module_finds_its_family() -> None:
    families = [make().family for make in (recurrent, x_transformer, hugging_face)]
    assert families == ["plain", "x-transformers", "huggingface"]


def test_a_users_subclass_of_a_known_model_keeps_its_family() -> None:
    from x_transformers import Decoder, TransformerWrapper

    class Mine(TransformerWrapper):
        pass

    module = Mine(num_tokens=8, max_seq_len=8, attn_layers=Decoder(dim=8, depth=1, heads=1, attn_dim_head=8))
    assert policy_for(module).family == "x-transformers"


def test_a_wrapper_that_returns_a_loss_is_refused_with_what_to_pass() -> None:
    from x_transformers import AutoregressiveWrapper

    with pytest.raises(ConfigError, match=r"wrapper\.net"):
        policy_for(AutoregressiveWrapper(x_transformer().module))


class _ReturnsLoss(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros(())


class _ReturnsTuple(nn.Module):
    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        return torch.zeros(*ids.shape, VOCAB), None


class _DropsLast(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros(ids.shape[0], ids.shape[1] - 1, VOCAB)


@pytest.mark.parametrize(
    ("module", "said"),
    [(_ReturnsLoss(), r"\(\)"), (_ReturnsTuple(), "tuple"), (_DropsLast(), r"\(2, 5, 32\)")],
)
def test_a_plain_module_that_returns_no_logits_is_refused_with_the_shape(
    module: nn.Module, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        policy_for(module).logits(IDS)
    assert "(2, 6, 'vocabulary')" in str(error.value)


def test_a_folder_that_is_no_model_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="save_pretrained"):
        load_policy(str(tmp_path))


def test_a_factory_gives_a_policy() -> None:
    policy, codec = load_policy("tests.helpers:Recurrent")
    assert isinstance(policy.module, Recurrent)
    assert codec is None


def test_a_factory_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"tests\.helpers:Missing"):
        load_policy("tests.helpers:Missing")


def test_the_stories_model_loads_with_its_codec_and_all_its_ends(stories_folder: Path) -> None:
    policy, codec = load_policy(str(stories_folder))
    assert policy.max_length == 512
    assert codec is not None
    assert codec.eos_ids == (2, 1)  # the tokenizer's, then the generation config's further one


def test_a_mixture_of_experts_that_is_saved_under_other_names_comes_back(tmp_path: Path) -> None:
    import transformers

    config = transformers.MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    policy = policy_for(transformers.MixtralForCausalLM(config))
    before = {name: tensor.clone() for name, tensor in policy.module.state_dict().items()}
    policy.save(tmp_path)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.zero_()
    policy.restore(tmp_path)
    after = policy.module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

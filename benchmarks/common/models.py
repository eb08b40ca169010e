"""The models both sides run: random weights, float32, next-token entropies as in trained models.

A random model's logits are nearly flat, which makes every filter's work unreal: top-p then keeps
thousands of tokens. So the output weights are scaled until the entropy is about 3 nats. They are tied
to the embeddings, hence two steps. The gain of the final norm, which only the output weights follow,
scales the logits and nothing else. And the embeddings are made small against what the layers add, or
sharp logits would repeat the token just read, for ever. Both sides build the same module from the same
seed and find the same scale; the entropy of what they sampled is measured and printed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.work import SEED, Sizes

POSITIONS = 1024
TARGET_NATS = 3.2
SMALL_EMBEDDINGS = 0.1


def llama(sizes: Sizes) -> nn.Module:
    """A Llama of transformers with sharpened logits, without any end-of-sequence token."""
    module: Any = random_llama(sizes)
    module.eval()
    _sharpen(module, module.model.embed_tokens.weight, module.model.norm.weight, 0.0, sizes)
    return module  # type: ignore[no-any-return]


def random_llama(sizes: Sizes, eos_id: int | None = None) -> nn.Module:
    """A Llama of transformers as it is made, in float32, with tied embeddings; token 0 pads."""
    import transformers

    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        intermediate_size=sizes.feed_forward,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).float()


def x_transformer(sizes: Sizes) -> nn.Module:
    """The same shape in x-transformers; imports nothing else, as the published library lacks the rest."""
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(SEED)
    layers = Decoder(
        dim=sizes.hidden,
        depth=sizes.layers,
        heads=sizes.heads,
        attn_dim_head=sizes.head_size,
        attn_kv_heads=sizes.kv_heads,
        rotary_pos_emb=True,
        rotary_emb_dim=sizes.head_size,
        use_rmsnorm=True,
        ff_glu=True,
        ff_swish=True,
        ff_no_bias=True,
        ff_mult=sizes.feed_forward / sizes.hidden,
    )
    module = TransformerWrapper(
        num_tokens=sizes.vocabulary, max_seq_len=POSITIONS // 2, attn_layers=layers, tie_embedding=True
    ).eval()
    norm = module.attn_layers.final_norm
    _sharpen(module, module.token_emb.emb.weight, norm.g, float(norm.unit_offset), sizes)
    return module


MODELS = {"llama": llama, "x_transformers": x_transformer}


@torch.no_grad()
def _sharpen(module: nn.Module, embeddings: Tensor, gain: Tensor, offset: float, sizes: Sizes) -> None:
    """Scales the logits to TARGET_NATS after random tokens; the final norm multiplies by gain + offset."""
    embeddings *= SMALL_EMBEDDINGS
    generator = torch.Generator().manual_seed(SEED)
    flat = logits(module, torch.randint(1, sizes.vocabulary, (4, 32), generator=generator))
    low, high = 1e-3, 1e5
    for _ in range(24):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _nats(flat * middle) > TARGET_NATS else (low, middle)
    gain.copy_((gain + offset) * high - offset)


@torch.no_grad()
def entropy(module: nn.Module, sequences: list[list[int]], new_tokens: int) -> float:
    """Mean next-token entropy, in nats, where the last `new_tokens` of each sequence were drawn."""
    found = [_nats(logits(module, torch.tensor([ids]))[:, -new_tokens - 1 : -1]) for ids in sequences]
    return sum(found) / len(found)


def logits(module: nn.Module, ids: Tensor) -> Tensor:
    output = module(ids)
    return output if isinstance(output, Tensor) else output.logits


def _nats(logits: Tensor) -> float:
    logprobs = logits.log_softmax(dim=-1)
    return float(-(logprobs.exp() * logprobs).sum(dim=-1).mean())

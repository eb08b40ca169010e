"""Small real models, and the simplest codec. Nothing here is a mock: every model computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Candidate, Prompt
from self_rewarding_lm_pytorch.text import FunctionCodec

VOCAB = 32

X_FAMILIES: dict[str, dict[str, Any]] = {
    "absolute": {},
    "rotary": {"rotary_pos_emb": True},
    "alibi": {"alibi_pos_bias": True},
    "relative bias": {"rel_pos_bias": True},
    "grouped heads": {"rotary_pos_emb": True, "attn_kv_heads": 1},
}

HF_FAMILIES = ("llama", "gpt2", "qwen2", "mistral", "gemma2")


class Recurrent(nn.Module):
    """A plain causal module: ids (B, T) -> logits (B, T, V)."""

    def __init__(self, vocab: int = VOCAB, size: int = 12, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, size)
        self.cell = nn.GRU(size, size, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(size, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.drop(self.cell(self.embed(ids))[0]))


class Successor(nn.Module):
    """Certain that the token after t is t + 1; its one parameter makes it trainable."""

    def __init__(self, vocab: int = VOCAB, certainty: float = 50.0) -> None:
        super().__init__()
        self.vocab = vocab
        self.certainty = nn.Parameter(torch.tensor(certainty))

    def forward(self, ids: Tensor) -> Tensor:
        return self.certainty * nn.functional.one_hot((ids + 1) % self.vocab, self.vocab)


class Table(nn.Module):
    """A bigram model: the logits after token t are row t of a table given in full."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits[ids]


class Script(nn.Module):
    """Writes a given byte string after a marker byte, then ends; what stands before is only read.

    The position in the script is the distance from the last marker, so the model is a causal function
    of the ids and can be read in any batch. Where the script says `?`, any byte of `wild` is as likely.
    """

    def __init__(self, text: bytes, *, wild: bytes = b"012345", marker: int = 1, end: int = 0) -> None:
        super().__init__()
        self.marker = marker
        script = torch.zeros(len(text) + 1, 256)
        for place, byte in enumerate([*text, end]):
            script[place, list(wild) if byte == ord("?") else byte] = 60.0
        self.script = nn.Parameter(script)

    def forward(self, ids: Tensor) -> Tensor:
        columns = torch.arange(ids.shape[1]).expand_as(ids)
        last = torch.where(ids == self.marker, columns, -1).cummax(dim=1).values
        place = (columns - last).clamp(max=len(self.script) - 1)
        return self.script[place] * (last >= 0)[..., None]


def recurrent(*, dtype: torch.dtype = torch.float64, seed: int = 0, **arguments: Any) -> Policy:
    torch.manual_seed(seed)
    module = Recurrent(**arguments).to(dtype)
    with torch.no_grad():  # far from uniform, so that a wrong position would show
        for parameter in module.parameters():
            parameter.mul_(3)
    return policy_for(module)


def x_transformer(*, dtype: torch.dtype = torch.float64, seed: int = 0, **layers: Any) -> Policy:
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(seed)
    decoder = Decoder(**{"dim": 16, "depth": 2, "heads": 2, "attn_dim_head": 8, **layers})
    module = TransformerWrapper(num_tokens=VOCAB, max_seq_len=64, attn_layers=decoder)
    with torch.no_grad():
        module.to_logits.weight.mul_(8)
        module.token_emb.emb.weight.mul_(8)
    return policy_for(module.to(dtype).eval())


def hugging_face(family: str = "llama", *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Policy:
    import transformers

    torch.manual_seed(seed)
    common = {"vocab_size": VOCAB, "initializer_range": 0.4, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {
        **common,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    window = {"sliding_window": 4, "head_dim": 8}
    configs = {
        "llama": lambda: transformers.LlamaConfig(**sizes),
        "qwen2": lambda: transformers.Qwen2Config(**sizes),
        "mistral": lambda: transformers.MistralConfig(**sizes, **window),
        "gemma2": lambda: transformers.Gemma2Config(**sizes, **window, query_pre_attn_scalar=8),
        "gpt2": lambda: transformers.GPT2Config(**common, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    }
    module = transformers.AutoModelForCausalLM.from_config(configs[family]())
    return policy_for(module.to(dtype).eval())


def other_hugging_face(family: str) -> Policy:
    """Families with attention out of the common, float32."""
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    mixed = {"sliding_window": 4, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 2}
    latent = {
        "num_key_value_heads": 2,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 6,
        "first_k_dense_replace": 2,
    }
    decoder = {"ffn_dim": 24, "word_embed_proj_dim": 16, "init_std": 0.4}
    few = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "initializer_range": 0.4}
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    configs = {
        "qwen3": lambda: transformers.Qwen3Config(**sizes, head_dim=8),
        "gemma3": lambda: transformers.Gemma3TextConfig(**sizes, **mixed, query_pre_attn_scalar=8),
        "gpt_oss": lambda: transformers.GptOssConfig(**sizes, **mixed, **experts, rope_parameters=rope),
        "deepseek_v3": lambda: transformers.DeepseekV3Config(**{**sizes, **latent}),
        "mixtral": lambda: transformers.MixtralConfig(**sizes, **experts),
        "opt": lambda: transformers.OPTConfig(**{**sizes, **decoder}),
        "stablelm": lambda: transformers.StableLmConfig(**sizes),
        "bloom": lambda: transformers.BloomConfig(**few, n_head=2),
        "mamba": lambda: transformers.MambaConfig(**few, state_size=4),
    }
    return policy_for(transformers.AutoModelForCausalLM.from_config(configs[family]()).eval())


def whole_logits(policy: Policy, ids: Tensor) -> Tensor:
    """The module's own full forward, past everything the library adds. (B, T) -> (B, T, V)."""
    out = policy.module(ids)
    logits: Tensor = getattr(out, "logits", out)
    return logits


def byte_codec(eos_id: int | None = 0) -> FunctionCodec:
    """One token for each byte."""
    return FunctionCodec(
        lambda text: list(text.encode()),
        lambda ids: bytes(ids.tolist()).decode(errors="replace"),
        eos_id=eos_id,
        vocab_size=256,
    )


def prompt(index: int, text: str = "why?", ids: tuple[int, ...] | None = None) -> Prompt:
    return Prompt(index, text, tuple(text.encode()) if ids is None else ids)


def candidate(
    prompt_index: int, index: int, text: str = "so", *, visit: int = 0, ids: tuple[int, ...] | None = None
) -> Candidate:
    given = tuple(text.encode()) if ids is None else ids
    return Candidate(prompt_index, visit, index, given, text, "eos", 17, "start")

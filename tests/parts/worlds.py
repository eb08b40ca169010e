"""A tiny Llama with a tokenizer of typed letters, and data beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from self_rewarding_lm_pytorch.parts.models import environment_of, named_model
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.stages.base import Environment, GenerationSettings

QUIET = Reporter(quiet=True)
PROMPTS = [f"what of the {word}?" for word in ("sun", "sea", "sky", "owl", "oak", "fox")]
PLAN = """
model: tiny
dtype: auto
seed: 3
run: runs/tiny
generation: {shard_size: 4}
stages:
  - {name: seed, kind: sft, data: seed.jsonl, num_steps: 3, batch_size: 4, learning_rate: 1e-2}
  - name: own
    kind: self_reward
    prompts: prompts.txt
    candidates: {num: 3, temperature: 1.0, max_new_tokens: 6}
    judge: {votes: 2, unparsed: force, max_new_tokens: 6}
    train: {batch_size: 2, num_steps: 1, learning_rate: 1e-3}
  - name: outside
    kind: external_reward
    prompts: prompts.txt
    candidates: {num: 4, top_k: 20, max_new_tokens: 5}
    pairing: {min_margin: 1, rho: 0.3}
    reward: reward.py:variety
    train: {batch_size: 2, num_steps: 1, learning_rate: 1e-3}
"""

CHATML = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def write_model(folder: Path, *, template: str | None = None, context: int = 1024) -> None:
    """A Llama of float64 with random weights, and a tokenizer of the letters that can be typed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = [
        "\u0120",
        "\u010a",
        *map(chr, range(33, 127)),
    ]  # as byte-level tokenizers write blank and line end
    vocab = {letter: index for index, letter in enumerate(["<eos>", "<s>", *letters])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", bos_token="<s>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=context,
        bos_token_id=1,
        eos_token_id=0,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).double().save_pretrained(folder)


def write_world(folder: Path) -> None:
    write_model(folder / "tiny")
    rows = [{"prompt": prompt, "response": f"yes {i}"} for i, prompt in enumerate(PROMPTS)]
    (folder / "seed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    reward = (
        "def variety(prompts, responses):\n"
        "    return [None if not text else float(len(set(text))) for text in responses]\n"
    )
    (folder / "reward.py").write_text(reward)


def environment(folder: Path, *, shard_size: int = 64, reporter: Reporter = QUIET) -> Environment:
    env = environment_of(named_model(str(folder), dtype="auto"), device="cpu", seed=0, reporter=reporter)
    env.generation = GenerationSettings(shard_size=shard_size)
    return env


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

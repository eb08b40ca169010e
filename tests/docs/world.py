"""A folder in which the commands of the docs run as they stand: where they name a model of the hub there is a
folder of that name, with a small untrained chat model, and the data they name are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "MODEL", "NAME")
LARGE = "meta-llama/Llama-2-7b-hf"
"""A folder with the shape of a large model, and no weights: what `plan` reads."""
LARGE_SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "dtype": "float16",
}
QUESTIONS = [f"What is {a} plus {b}?" for a in range(2, 8) for b in (3, 5)]

STORY = (
    "One day the little dog was very happy and went to the park with him. They had a big red ball and she "
    "said, I want to play with you. So he did not go up there, but it was out of the box for them."
)


def make_world(folder: Path) -> None:
    """Writes models and data under their documented names."""
    tokenizer = chat_tokenizer()
    for seed, name in enumerate(MODELS):
        tokenizer.save_pretrained(folder / name)
        tiny_llama(tokenizer, seed).save_pretrained(folder / name)
    (folder / LARGE).mkdir(parents=True)
    (folder / LARGE / "config.json").write_text(json.dumps(LARGE_SHAPE), encoding="utf-8")
    rows: dict[str, list[dict[str, Any]]] = {
        "prompts.jsonl": [{"prompt": text} for text in QUESTIONS],
        "held-out.jsonl": [{"prompt": text} for text in QUESTIONS[:4]],
        "answers.jsonl": [{"prompt": text, "response": f"{text} I think."} for text in QUESTIONS],
        "pairs.jsonl": [{"prompt": t, "chosen": "It is so.", "rejected": "no no no"} for t in QUESTIONS],
        "judged.jsonl": [
            {"prompt": t, "response": answer, "score": score}
            for t in QUESTIONS
            for answer, score in (("It is so.", 4), ("no no no", 1))
        ],
        "ranked.jsonl": [{"prompt": t, "chosen": "It is so.", "rejected": "no no no"} for t in QUESTIONS],
    }
    for name, items in rows.items():
        (folder / name).write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")


def tiny_llama(tokenizer: Any, seed: int) -> Any:
    """Untrained, but of all tokens it likes words, full stops and the end of a turn, so that answers have
    some tens of tokens and rewards tell them apart."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    words = [id for text, id in tokenizer.get_vocab().items() if text[:1] == "Ġ" and text[1:].isalpha()]
    with torch.no_grad():  # every hidden state leans to one axis, and so do the outputs of what is liked
        model.model.embed_tokens.weight[:, 0] = 0.2
        model.lm_head.weight[words, 0] = 0.7
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("."), 0] = 1.15
        model.lm_head.weight[tokenizer.eos_token_id, 0] = 0.95
    return model


def chat_tokenizer() -> Any:
    """Byte-level BPE with ChatML's template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(
        [*QUESTIONS, "The response is scored: points, prompt, response, Score: 5", STORY] * 3, trainer
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer

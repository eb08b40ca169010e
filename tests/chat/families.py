"""Tokenizers of seven families, made here with `tokenizers`, saved and loaded as tokenizer files.

The templates are written anew with the structure of each family's.
"""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

CORPUS = [
    "It is what it is. user assistant system model\n What is the answer? The answer is 4.",
    "User: why? Assistant: because it is so, that is why. Be brief and kind.",
] * 3

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set said = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set said = false %}{% endif %}"
    "{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}"
    "{% if loop.index0 == 0 and said != false %}"
    "{% set content = '<<SYS>>\\n' + said + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN3 = (
    "{% set last = namespace(user=0) %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{% set last.user = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% set content = message['content'] %}{% set thought = '' %}"
    "{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% if loop.index0 > last.user %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ content + '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else 'user' %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)

MARKS = {
    "llama2": ["<s>", "</s>"],
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ],
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>"],
    "mistral": ["<s>", "</s>"],
    "gpt2": ["<|endoftext|>"],
}
TEMPLATES = {
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "qwen": QWEN,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "gpt2": None,
}
FAMILIES = tuple(TEMPLATES)
BEGINNINGS = {"llama2": "<s>", "llama3": "<|begin_of_text|>", "gemma": "<bos>", "mistral": "<s>"}
ENDS = {
    "llama2": "</s>",
    "llama3": "<|eot_id|>",
    "qwen": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "mistral": "</s>",
    "gpt2": "<|endoftext|>",
}


def begun(way: str) -> Any:
    """A SentencePiece tokenizer whose marks stand right before what is said, without the template's blank.

    swallowed: a mark takes the blanks behind it, and what follows begins as texts do, with a blank of its
    own (Phi-3's). joined: what follows does not, since texts alone begin with one (Llama's, not legacy).
    """
    import json

    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = _sentencepiece("mistral")
    if way == "joined":
        state = json.loads(made.to_str())
        first = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
        state |= {"normalizer": None, "pre_tokenizer": first}
        made = Tokenizer.from_str(json.dumps(state))
    loaded = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    marks = [
        AddedToken(f"<|{name}|>", rstrip=way == "swallowed", normalized=False, special=True)
        for name in ("user", "assistant", "end")
    ]
    loaded.add_special_tokens({"additional_special_tokens": marks})
    line = "\\n" if way == "swallowed" else ""
    loaded.chat_template = (
        "{{ bos_token }}{% for message in messages %}"
        f"{{{{ '<|' + message['role'] + '|>{line}' + message['content'] + '<|end|>{line}' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '<|assistant|>{line}' }}}}{{% endif %}}"
    )
    return loaded


def tokenizer(family: str) -> Any:
    """A new one, as a user loads it from its files."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_folder(family).name)


@cache
def _folder(family: str) -> tempfile.TemporaryDirectory[str]:
    from transformers import PreTrainedTokenizerFast

    sentencepiece = family in ("llama2", "mistral", "gemma")
    made = _sentencepiece(family) if sentencepiece else _byte_level(family)
    begin = BEGINNINGS.get(family)
    if begin is not None:
        _begins_every_text(made, begin)
    ends = {"llama3": "<|end_of_text|>", "gemma": "<eos>"}
    # pad is the end, as many people set it; Gemma has its own.
    end = ends.get(family, ENDS[family])
    names = {"eos_token": end, "pad_token": "<pad>" if family == "gemma" else end}
    if begin is not None:
        names["bos_token"] = begin
    if family == "gpt2":
        names["bos_token"] = end
    loaded = PreTrainedTokenizerFast(
        tokenizer_object=made,
        additional_special_tokens=MARKS[family],
        clean_up_tokenization_spaces=False,
        **names,
    )
    loaded.chat_template = TEMPLATES[family]
    if family == "qwen3":
        from tokenizers import AddedToken

        loaded.add_tokens([AddedToken(name, special=False) for name in ("<think>", "</think>")])
    folder = tempfile.TemporaryDirectory()
    loaded.save_pretrained(folder.name)
    return folder


def _byte_level(family: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=MARKS[family],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def _sentencepiece(family: str) -> Any:
    """Blanks as a letter of their own, one before every text (not Gemma's), bytes for unknown letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()  # words are learned, not parts of two words
    marks = ["<unk>", *MARKS[family]]
    fallbacks = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=[*marks, *fallbacks], show_progress=False, max_token_length=8
    )
    made.train_from_iterator(CORPUS, trainer)
    return _read_whole(made, marks, is_begun=family != "gemma")


def _read_whole(made: Any, marks: list[str], *, is_begun: bool) -> Any:
    """Texts are read in one piece; a text that spells <0x41> is text, though bytes are in the vocabulary."""
    import json

    from tokenizers import Tokenizer, decoders, normalizers

    state = json.loads(made.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in marks]
    state["pre_tokenizer"] = None
    made = Tokenizer.from_str(json.dumps(state))
    begins = [normalizers.Prepend("\u2581")] if is_begun else []
    made.normalizer = normalizers.Sequence([*begins, normalizers.Replace(" ", "\u2581")])
    stripped = [decoders.Strip(" ", 1, 0)] if is_begun else []
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *stripped]
    )
    return made


def _begins_every_text(made: Any, begin: str) -> None:
    from tokenizers.processors import TemplateProcessing

    made.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, made.token_to_id(begin))]
    )

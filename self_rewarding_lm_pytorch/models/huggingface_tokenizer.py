"""The codec of a Hugging Face model without its weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import transformers

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.huggingface import no_progress_bars
from self_rewarding_lm_pytorch.models.load import codec_for
from self_rewarding_lm_pytorch.text import HuggingFaceCodec


def codec_of(source: str, *, trust_remote_code: bool = False) -> tuple[HuggingFaceCodec, int | None]:
    """The codec that `load_policy` would give, and the model's context in tokens (None: not known).

    source: a folder or hub name. What a configuration says (context, vocabulary, further ends) is left out
    where there is none, as beside an adapter. Raises ConfigError where there is no tokenizer.
    """
    remote: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        with no_progress_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **remote)
    except Exception as error:  # the library raises of many families
        raise ConfigError(
            f"the tokenizer of {source!r} cannot be loaded: {' '.join(str(error).split()):.400}. Give a "
            "folder that holds one, a hub name, or module:factory that returns (module, codec)"
        ) from error
    config, generation = _config(source, remote), _generation(source)
    text = config.get_text_config() if config is not None else None
    if generation is None and config is not None:
        generation = SimpleNamespace(eos_token_id=getattr(text, "eos_token_id", None))
    codec = codec_for(tokenizer, SimpleNamespace(config=config, generation_config=generation))
    return codec, getattr(text, "max_position_embeddings", None)


def _config(source: str, remote: dict[str, Any]) -> Any:
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        return None
    try:
        return transformers.AutoConfig.from_pretrained(source, **remote)
    except (OSError, ValueError):
        return None


def _generation(source: str) -> Any:
    try:
        return transformers.GenerationConfig.from_pretrained(source)
    except (OSError, ValueError):
        return None

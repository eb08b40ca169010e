"""A stage's prompts: text, each tokenized as the policy reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.columns import prompt_text
from self_rewarding_lm_pytorch.data.files import is_there, write_json
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.data.sources import described
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError, DataError
from self_rewarding_lm_pytorch.records import Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, StageRun
from self_rewarding_lm_pytorch.text import Codec, shortened


def read_prompts(env: Environment, source: Any, stage: str, *, limit: int | None = None) -> list[Prompt]:
    """Every prompt of the source, in order; equal prompts are not merged.

    source: data, or {made_by: NAME}, a stage of this run that wrote prompts.
    """
    if isinstance(source, Mapping) and described(source) is None:
        source = _made(env, source, stage)
    texts = list(each_made(source, prompt_text, base=env.base))[:limit]
    if not texts:
        raise DataError(f"stage {stage!r}: the prompt set is empty, so nothing can be sampled")
    return _tokenized(env, texts, stage)


MAKERS = ("self_instruct",)
"""Kinds of stages that write prompts for later ones."""


def made_by(source: Any) -> str | None:
    """The stage of this run whose prompts these are, or None where they are given."""
    return str(source["made_by"]) if isinstance(source, Mapping) and set(source) == {"made_by"} else None


def _made(env: Environment, source: Mapping[str, Any], stage: str) -> Path:
    name = made_by(source)
    if name is None:
        raise ConfigError(
            f"stage {stage!r}: prompts are {dict(source)!r}; give data, or {{made_by: NAME}} with the name "
            "of a self_instruct stage before this one"
        )
    if name not in env.checkpoints:
        raise ConfigError(f"stage {stage!r}: prompts are made by {name!r}, but no such stage is finished")
    path = env.checkpoints[name].parent / "prompts.jsonl"
    if not is_there(path):
        raise ConfigError(f"stage {stage!r}: prompts are made by {name!r}, but that stage writes no prompts")
    return path


def kept_prompts(run: StageRun, prompts: list[Prompt]) -> list[Prompt]:
    """The prompts this stage began with: a resumed run goes on with them even if the source changed."""
    path = run.folder / "items" / "prompts.json"
    if not is_there(path):
        write_json(path, [prompt.text for prompt in prompts])
        return prompts
    try:
        texts = [str(text) for text in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}, the prompts that this stage began with, was altered ({error}); put it back from a "
            "copy, or remove it, and the same command reads them again from the data"
        ) from error
    return _tokenized(run.env, texts, run.name)


def _tokenized(env: Environment, texts: list[str], stage: str) -> list[Prompt]:
    codec = env.needed_codec(stage)
    prompts = [Prompt(index, text, codec.prompt_ids(text)) for index, text in enumerate(texts)]
    empty = next((prompt for prompt in prompts if not prompt.ids), None)
    if empty is not None:
        raise DataError(
            f"stage {stage!r}: prompt {empty.index} ({empty.text!r:.60}) has no tokens, so there is nothing "
            "to answer; take it out, or a tokenizer that knows its letters"
        )
    for note in codec_notes(codec, texts[0][:_PROBED]):
        env.reporter.say_once(note)
    return prompts


_PROBED = 200  # characters of a prompt


def codec_notes(codec: Codec, text: str) -> list[str]:
    """What people should know of a tokenizer that all this works with, but not as they may think."""
    notes = []
    if not codec.eos_ids:
        notes.append(
            "the tokenizer names no end-of-sequence token, so no response ends before its budget is used up, "
            "and training writes no end; give one (eos_token, or eos_id of a FunctionCodec)"
        )
    again = codec.decode(codec.continuation_ids(text))
    if again.strip() != text.strip():
        notes.append(
            f"the tokenizer gives {shortened(again)!r} back for {shortened(text)!r}, so judges read other "
            "text than stands in the data; look at its encode and decode"
        )
    return notes

"""A stage's prompts: texts or conversations, each tokenized as the policy reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.columns import prompt_of
from self_rewarding_lm_pytorch.data.files import is_there, write_json
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.data.sources import described
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError, DataError
from self_rewarding_lm_pytorch.records import Conversation, Message, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, StageRun
from self_rewarding_lm_pytorch.stages.chat_settings import chat_notes
from self_rewarding_lm_pytorch.stages.forms import say_forms
from self_rewarding_lm_pytorch.text import Codec, as_asked, reasoning_of, shortened, source_of, transcript


def read_prompts(
    env: Environment, source: Any, stage: str, *, limit: int | None = None, max_tokens: int | None = None
) -> list[Prompt]:
    """Every prompt of the source, in order; equal prompts are not merged.

    source: data, or {made_by: NAME}, a stage of this run that wrote prompts. limit: only the first so many.
    max_tokens: of those, longer ones are left out, which is said.
    """
    is_made = isinstance(source, Mapping) and described(source) is None
    if is_made:
        source = _made(env, source, stage)
    asked = list(islice(each_made(source, prompt_of, base=env.base), limit))
    if not asked:
        raise DataError(f"stage {stage!r}: the prompt set is empty, so nothing can be sampled")
    if not is_made:
        is_all = limit is None or len(asked) < limit
        say_forms(env, source, "prompts", rows=len(asked) if is_all else None)
    prompts = _tokenized(env, asked, stage)
    return prompts if max_tokens is None else _short_ones(env, prompts, max_tokens, stage)


def _short_ones(env: Environment, prompts: list[Prompt], max_tokens: int, stage: str) -> list[Prompt]:
    kept = [prompt for prompt in prompts if len(prompt.ids) <= max_tokens]
    left_out = f"have more than max_prompt_tokens {max_tokens}"
    if not kept:
        shortest = min(len(prompt.ids) for prompt in prompts)
        raise DataError(
            f"stage {stage!r}: all {len(prompts):,} prompts {left_out}, so nothing can be sampled; the "
            f"shortest has {shortest}: raise it"
        )
    if len(kept) < len(prompts):
        num = len(prompts) - len(kept)
        env.reporter.say_once(f"stage {stage!r}: {num:,} of {len(prompts):,} prompts {left_out}, left out")
    return [replace(prompt, index=index) for index, prompt in enumerate(kept)]


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
        write_json(path, [_as_json(source_of(prompt)) for prompt in prompts])
        return prompts
    try:
        asked = [_from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}, the prompts that this stage began with, was altered ({error}); put it back from a "
            "copy, or remove it, and the same command reads them again from the data"
        ) from error
    return _tokenized(run.env, asked, run.name)


def _as_json(asked: str | Conversation) -> str | list[dict[str, str]]:
    if isinstance(asked, str):
        return asked
    return [{"role": turn.role, "content": turn.content} for turn in asked]


def _from_json(entry: Any) -> str | Conversation:
    return str(entry) if not isinstance(entry, list) else tuple(Message(**turn) for turn in entry)


def _tokenized(env: Environment, asked: Sequence[str | Conversation], stage: str) -> list[Prompt]:
    codec = env.needed_codec(stage)
    prompts = [_prompt(codec, index, source) for index, source in enumerate(asked)]
    empty = next((prompt for prompt in prompts if not prompt.ids), None)
    if empty is not None:
        raise DataError(
            f"stage {stage!r}: prompt {empty.index} ({empty.text!r:.60}) has no tokens, so there is nothing "
            "to answer; take it out, or a tokenizer that knows its letters"
        )
    for note in codec_notes(codec, prompts[0].text[:_PROBED]):
        env.reporter.say_once(note)
    for note in chat_notes(codec):
        env.reporter.say_once(note)
    return prompts


def _prompt(codec: Codec, index: int, asked: str | Conversation) -> Prompt:
    asked = asked if isinstance(asked, str) else as_asked(asked)
    try:
        ids = codec.prompt_ids(asked)
    except DataError as error:
        raise DataError(f"prompt {index}: {error}") from error
    if isinstance(asked, str):
        return Prompt(index, asked, ids)
    return Prompt(index, transcript(asked, reasoning_of(codec)), ids, asked)


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

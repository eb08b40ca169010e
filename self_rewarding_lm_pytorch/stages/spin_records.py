"""A supervised item as prompt and response, and SPIN's pairs as they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.columns import supervised_of
from self_rewarding_lm_pytorch.data.files import is_there
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.data.readers import Source, is_in_files
from self_rewarding_lm_pytorch.data.sources import described
from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.records import Conversation, Example, PairExample, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import StageRun
from self_rewarding_lm_pytorch.stages.prompts import kept_prompts
from self_rewarding_lm_pytorch.text import Codec, as_asked, example_from_text, reasoning_of, transcript


def item_prompt(index: int, example: Example) -> Prompt:
    """The tokens before the first target."""
    first = int(torch.nonzero(example.is_target)[0])
    return Prompt(index, "", tuple(example.ids[:first].tolist()))


def item_response(prompt: Prompt, example: Example) -> tuple[int, ...]:
    """The tokens behind the prompt."""
    return tuple(example.ids[len(prompt.ids) :].tolist())


def told_prompts(run: StageRun, source: Source, examples: Sequence[Example]) -> list[Prompt]:
    """Behind a chat template: the prompts of the first so many items, whose rows tell their text.

    A prompt's own text cannot be had from its ids there, so the rows are read once more, and count while they
    still make the items. The prompts are kept with the stage, for the export and the page. Of data that make
    their rows as they are asked for, and may make others, there are none.
    """
    codec = run.env.codec
    if codec is None or _is_plain(codec) or not _can_be_read_again(source):
        return []
    prompts, fault = processes.on_main(lambda: _told(run, source, examples, codec))
    if fault:
        run.env.reporter.say(
            f"  the text of {len(examples) - len(prompts):,} of {len(examples):,} prompts is not stored for "
            f"export and page, as the data, read once more, are not what they were: {fault}"
        )
    if prompts and not is_there(run.folder / "items" / "prompts.json"):
        kept_prompts(run, prompts)
    return prompts


def _can_be_read_again(source: Source) -> bool:
    wanted = described(source)
    if wanted is not None and wanted.rows is not None:
        return _can_be_read_again(wanted.rows)
    is_of_datasets = type(source).__module__.partition(".")[0] == "datasets"
    return is_in_files(source) or isinstance(source, list | tuple) or is_of_datasets


def _told(
    run: StageRun, source: Source, examples: Sequence[Example], codec: Codec
) -> tuple[list[Prompt], str]:
    """The prompts, and why they end before the items do, unless these are ids."""
    prompts: list[Prompt] = []
    try:
        for turns in each_made(source, _turns, base=run.env.base):
            if turns is None or len(prompts) == len(examples):
                return prompts, ""
            asked, example = as_asked(turns[:-1]), examples[len(prompts)]
            if _is_same(example_from_text(codec, asked, turns[-1].content), example):
                prompts.append(_with_text(item_prompt(len(prompts), example), asked, codec))
    except SelfRewardingError as error:
        return prompts, str(error)
    return prompts, "" if len(prompts) == len(examples) else f"item {len(prompts)} is not among them"


def _turns(row: Any, number: int) -> Conversation | None:
    """The row's conversation; None where it is ids."""
    return supervised_of(row, number) if isinstance(row, Mapping) else None


def _is_same(made: Example, example: Example) -> bool:
    """Otherwise the row was left out of the items, or is another now."""
    return torch.equal(made.ids, example.ids) and torch.equal(made.is_target, example.is_target)


def _with_text(prompt: Prompt, asked: str | Conversation, codec: Codec) -> Prompt:
    if isinstance(asked, str):
        return replace(prompt, text=asked)
    return replace(prompt, text=transcript(asked, reasoning_of(codec)), turns=asked)


def pair_records(
    pairs: Sequence[PairExample], iteration: int, codec: Codec | None, told: Sequence[Prompt] = ()
) -> list[PreferencePair]:
    """Pairs numbered by their items, as they are stored: the iteration (from 0) is the visit.

    told: the prompts of the first so many items, with their text.
    """

    def text(ids: tuple[int, ...]) -> str:
        return codec.decode(ids) if codec is not None else ""

    made = []
    for pair in pairs:
        prompt = item_prompt(pair.index, pair.chosen)
        chosen, rejected = item_response(prompt, pair.chosen), item_response(prompt, pair.rejected)
        made.append(
            PreferencePair(
                prompt_index=pair.index,
                visit=iteration,
                prompt=told[pair.index].text if pair.index < len(told) else _read_back(prompt, codec),
                chosen=text(chosen),
                rejected=text(rejected),
                prompt_ids=prompt.ids,
                chosen_ids=chosen,
                rejected_ids=rejected,
            )
        )
    return made


def _read_back(prompt: Prompt, codec: Codec | None) -> str:
    """What the ids say; empty behind a chat template, where that is not the prompt's own text."""
    return codec.decode(prompt.ids) if codec is not None and _is_plain(codec) else ""


def _is_plain(codec: Codec) -> bool:
    return not getattr(codec, "has_chat_template", False)

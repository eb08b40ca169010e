"""A supervised item as prompt and response, and SPIN's pairs as they are stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from self_rewarding_lm_pytorch.records import Example, PairExample, PreferencePair, Prompt
from self_rewarding_lm_pytorch.text import Codec


def item_prompt(index: int, example: Example) -> Prompt:
    """The tokens before the first target."""
    first = int(torch.nonzero(example.is_target)[0])
    return Prompt(index, "", tuple(example.ids[:first].tolist()))


def item_response(prompt: Prompt, example: Example) -> tuple[int, ...]:
    """The tokens behind the prompt."""
    return tuple(example.ids[len(prompt.ids) :].tolist())


def pair_records(pairs: Sequence[PairExample], iteration: int, codec: Codec | None) -> list[PreferencePair]:
    """Pairs numbered by their items, as they are stored: the iteration (from 0) is the visit."""
    # Behind a chat template the prompt's own text can no longer be told; it is then left empty.
    is_plain = codec is not None and not getattr(codec, "has_chat_template", False)

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
                prompt=text(prompt.ids) if is_plain else "",
                chosen=text(chosen),
                rejected=text(rejected),
                prompt_ids=prompt.ids,
                chosen_ids=chosen,
                rejected_ids=rejected,
            )
        )
    return made

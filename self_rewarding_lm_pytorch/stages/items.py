"""A stage's items, made of its data once: by the check before the run, or as the stage begins."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import torch
from pydantic import Field

from self_rewarding_lm_pytorch.data.files import is_there
from self_rewarding_lm_pytorch.data.formats import Use
from self_rewarding_lm_pytorch.data.item_file import examples_in, pairs_in, write_examples, write_pairs
from self_rewarding_lm_pytorch.data.items import each_example, each_given_pair
from self_rewarding_lm_pytorch.data.readers import is_in_files
from self_rewarding_lm_pytorch.data.room import Room
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Example, PairExample
from self_rewarding_lm_pytorch.stages.base import Environment, StageRun
from self_rewarding_lm_pytorch.stages.chat_settings import chat_notes
from self_rewarding_lm_pytorch.stages.checked_items import items_file
from self_rewarding_lm_pytorch.stages.forms import say_forms
from self_rewarding_lm_pytorch.text import Codec

Item = TypeVar("Item", bound=Example | PairExample)
ItemTokens = Annotated[int, Field(ge=1)] | None
"""A plan's bound on an item's tokens, prompt and answer: longer ones are left out and counted. None: they are
refused where the model cannot read them."""


@dataclass(frozen=True)
class Items(Generic[Item]):
    """One kind of them: how rows become items, and how those are kept."""

    use: Use
    each: Callable[..., Iterator[Item]]
    write: Callable[[Path, Iterable[Item]], None]
    read: Callable[[Path], Sequence[Item]]

    def check(
        self, env: Environment, stage: str, source: Any, name: str, *, max_tokens: int | None = None
    ) -> None:
        """Makes all items of files before any training, and keeps them for the stage.

        Items in memory are made once, when their stage begins. max_tokens: longer items are left out.
        Raises DataError at the first bad row.
        """
        if not is_in_files(source):
            return
        made = self._made(env, stage, source, name, max_tokens)
        if env.checked is None:
            deque(made, maxlen=0)
        else:
            env.checked.keep(stage, name, lambda path: self.write(path, made))

    def of(
        self,
        run: StageRun,
        source: Any,
        name: str,
        *,
        codec: Codec | None = None,
        max_tokens: int | None = None,
    ) -> Sequence[Item]:
        """The source's items, kept with the run and read from there one at a time.

        codec: default the run's. max_tokens: as the check was told. Raises DataError where there are none.
        """
        path, env, codec = items_file(run.folder, name), run.env, codec or run.env.codec
        if not is_there(path):
            say_forms(env, source, self.use)
            if env.checked is None or not env.checked.take(run.name, name, path):
                self.write(path, self._made(env, run.name, source, name, max_tokens, codec))
            for note in chat_notes(codec):
                env.reporter.say_once(note)
        return not_empty(self.read(path), run.name, name)

    def _made(
        self,
        env: Environment,
        stage: str,
        source: Any,
        name: str,
        max_tokens: int | None,
        codec: Codec | None = None,
    ) -> Iterator[Item]:
        room, alike = Room(env.policy.max_length, max_tokens), 0
        for item in self.each(source, env.policy, codec or env.codec, base=env.base, room=room):
            alike += isinstance(item, PairExample) and torch.equal(item.chosen.ids, item.rejected.ids)
            yield item
        if left_out := room.said():
            env.reporter.say_once(f"stage {stage!r}, {name}: {left_out}")
        if alike:
            env.reporter.warn(
                f"stage {stage!r}, {name}: {alike:,} of {room.kept:,} pairs have the same answer on both "
                "sides, so there is nothing to prefer in them; take them out"
            )


EXAMPLES = Items("supervised", each_example, write_examples, examples_in)
LAST_TURNS = Items("supervised", partial(each_example, last_only=True), write_examples, examples_in)
"""Of a conversation only the last turn is a target."""
PAIRS = Items("pairs", each_given_pair, write_pairs, pairs_in)


def not_empty(items: Sequence[Item], stage: str, name: str) -> Sequence[Item]:
    """The items; DataError where there are none."""
    if not len(items):
        raise DataError(f"stage {stage!r}: {name} has no items, so there is nothing to train on; give some")
    return items

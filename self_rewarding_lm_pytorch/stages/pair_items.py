"""Pairs that a stage has stored, as training reads them: from a file, one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from self_rewarding_lm_pytorch.data.item_file import pairs_in, write_pairs
from self_rewarding_lm_pytorch.data.items import each_preference_example
from self_rewarding_lm_pytorch.records import PairExample, PreferencePair
from self_rewarding_lm_pytorch.stages.base import StageRun


def pair_items(
    run: StageRun, name: str, pairs: Iterable[PreferencePair], certainties: Iterable[float] = ()
) -> Sequence[PairExample]:
    """Written to items/NAME.arrow below the stage's folder, anew whenever the stage starts.

    The shards are what counts; this file is made from them.
    certainties: of the pairs' labels, in their order; pairs behind the last one are believed in full.
    """
    path = run.folder / "items" / f"{name}.arrow"
    write_pairs(path, each_preference_example(pairs, certainties))
    return pairs_in(path)

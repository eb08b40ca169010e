"""What a run leaves on its disk, at most, from counts and shapes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.overview.memory import Weights, optimizer_bytes
from self_rewarding_lm_pytorch.overview.tokens import Tokens

_OF_A_TOKEN = 8  # its id, four characters of its text; Parquet makes less of it
_IDS = 4.25  # of a training item: int32 ids, a bit or two of its masks


@dataclass(frozen=True)
class Disk:
    """Bytes of one stage; None: not known. state: while it trains; it is removed with the checkpoint."""

    checkpoints: int | None = None
    state: int | None = None
    samples: int = 0
    items: int = 0

    @property
    def kept(self) -> int:
        """What stays when the stage is done, as far as it is known."""
        return (self.checkpoints or 0) + self.samples + self.items

    def as_dict(self) -> dict[str, Any]:
        return {
            "checkpoint_bytes": self.checkpoints,
            "training_state_bytes": self.state,
            "sample_bytes": self.samples,
            "item_bytes": self.items,
        }


def stage_disk(
    stage: Any,
    weights: Weights | None,
    tokens: Tokens,
    items: int | None,
    steps: int | None,
    *,
    is_whole: bool,
) -> Disk:
    """A checkpoint holds all weights, or the adapter alone (is_whole: all).

    With `checkpoint_every` there is one more for each so many steps. A training state holds what trains, the
    optimizer's states, and a reference that moves; for a moment there are two of them. A sampled token takes
    up to 8 bytes (id and text), one of a training item 4.25.
    """
    sampled = tokens.most_visits * ((tokens.candidates or 0) + (tokens.votes or 0))
    stored = round(_IDS * (tokens.item or 0) * (items or 0))
    train = getattr(stage, "train", None)
    if weights is None or train is None:
        known = 0 if train is None else None
        return Disk(known, known, _OF_A_TOKEN * sampled, stored)
    whole = weights.held if is_whole else weights.trained_bytes
    every = train.checkpoint_every
    more = 0 if every is None or steps is None else max(0, steps - 1) // every
    moving = weights.trained_bytes if getattr(train, "reference", "") in ("ema", "refresh") else 0
    state = 2 * (weights.trained_bytes + optimizer_bytes(weights, train) + moving)
    return Disk((1 + more) * whole, state, _OF_A_TOKEN * sampled, stored)


def disk_in_all(stages: list[Disk], keep_last: int | None) -> int:
    """The most that lies there at once, as far as it is known.

    keep_last: of the stages' checkpoints so many stay, and the one that is being made.
    """
    sizes = [disk.checkpoints or 0 for disk in stages]
    held = sum(sizes) if keep_last is None else sum(sorted(sizes)[-(keep_last + 1) :])
    others = sum(disk.samples + disk.items for disk in stages)
    return held + others + max((disk.state or 0 for disk in stages), default=0)


def free_bytes(place: Path) -> int | None:
    """Of the disk that a folder is on, or will be; None where that cannot be told."""
    there = next((path for path in (place, *place.absolute().parents) if path.exists()), None)
    try:
        return None if there is None else shutil.disk_usage(there).free
    except OSError:
        return None

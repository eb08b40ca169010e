"""How many rows a stage's data have, and how long they are; nothing of the hub is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self_rewarding_lm_pytorch.data.formats import Use, told
from self_rewarding_lm_pytorch.data.readers import each_row, is_in_files
from self_rewarding_lm_pytorch.data.sources import described
from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.overview.lengths import MEASURED, Lengths, lengths_of
from self_rewarding_lm_pytorch.overview.steps import Count
from self_rewarding_lm_pytorch.plans.scaling import data_sources
from self_rewarding_lm_pytorch.stages.base import StageConfig
from self_rewarding_lm_pytorch.stages.prompts import made_by
from self_rewarding_lm_pytorch.text import Codec

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.overview.plan import Overview

_MEASURED = ("data", "valid_data", "replay", "prompts")
_USES: dict[tuple[str, str], Use] = {  # by setting and kind of stage; "" is any
    ("prompts", ""): "prompts",
    ("seeds", ""): "prompts",
    ("replay", ""): "supervised",
    **{(name, kind): "supervised" for name in ("data", "valid_data") for kind in ("sft", "spin")},
    **{(name, "dpo"): "pairs" for name in ("data", "valid_data")},
}


@dataclass
class StageData:
    """By the name of the setting; lengths of those that could be measured."""

    rows: dict[str, Count] = field(default_factory=dict)
    lengths: dict[str, Lengths] = field(default_factory=dict)


def stage_data(
    stage: StageConfig, codec: Codec | None, base: Path | None, where: str, found: Overview
) -> StageData:
    """Reads each source once; what cannot be read, or was not looked at, is put into `found`."""
    data = StageData()
    for name, source in data_sources(stage):
        try:
            _look(data, name, source, stage, codec, base, f"{where}: {name}", found)
        except SelfRewardingError as error:
            found.problems.append(f"{where}: {name}: {error}")
            data.rows[name] = Count(None)
    return data


def _look(
    data: StageData,
    name: str,
    source: Any,
    stage: StageConfig,
    codec: Codec | None,
    base: Path | None,
    where: str,
    found: Overview,
) -> None:
    if made_by(source) is not None:
        data.rows[name] = Count(None)
        return
    far = far_source(source, base)
    if far:
        found.unseen.append(f"{where}: {far} is on the hub and was not fetched")
        wanted = described(source)
        data.rows[name] = Count(wanted.limit if wanted is not None else None, is_bound=True)
        return
    if not is_in_files(source):
        is_sized = hasattr(source, "__len__") and not isinstance(source, dict)
        data.rows[name] = Count(len(source) if is_sized else None)
        if not is_sized:
            return
    counted = _Counted(each_row(source, base=base))
    if name in _MEASURED:
        setting = "max_prompt_tokens" if name == "prompts" else "max_item_tokens"
        bound = getattr(stage, setting, None)
        lengths = lengths_of(counted, name, stage.kind, codec, bound=bound)
        if lengths is not None:
            data.lengths[name] = lengths
            found.read += _left_out(lengths, f"{where}: ", f"{setting} {bound}")
    for _ in counted:
        pass
    data.rows[name] = Count(counted.number)
    use = _USES.get((name, stage.kind)) or _USES.get((name, ""))
    if use is not None and counted.number:
        found.read += [f"{where}: {line}" for line in told(source, use, base=base, rows=counted.number)]


def _left_out(lengths: Lengths, where: str, bound: str) -> list[str]:
    if not lengths.left_out:
        return []
    least = "at least " if lengths.left_out == MEASURED else ""
    about = "about " if lengths.is_rough else ""
    return [
        f"{where}{about}{least}{lengths.left_out:,} of {lengths.rows:,} rows are over {bound} and left out"
    ]


class _Counted:
    """Rows as they are read, counted."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self._rows = rows
        self.number = 0

    def __iter__(self) -> Iterator[Any]:
        for row in self._rows:
            self.number += 1
            yield row


def far_source(source: Any, base: Path | None) -> str:
    """The data set of the hub that would have to be fetched, if any."""
    if not is_in_files(source):
        return ""
    if isinstance(source, list | tuple):
        return next((name for part in source if (name := far_source(part, base))), "")
    wanted = described(source)
    if wanted is not None and wanted.open_assistant is not None:
        return far_source(wanted.open_assistant_source(), base)
    if wanted is None or wanted.hub is None:
        return ""
    with suppress(OSError):
        if any(place.is_dir() for place in (Path(wanted.hub), (base or Path()) / wanted.hub)):
            return ""
    return wanted.hub

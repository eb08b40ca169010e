"""A data source said in full: where its rows are, which of them, and which column is which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from self_rewarding_lm_pytorch.data.conversations import first_turn
from self_rewarding_lm_pytorch.data.roles import Roles, renamed
from self_rewarding_lm_pytorch.data.splits import Slice, pieces
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.registry import unknown_name

PLACES = ("file", "hub", "open_assistant", "rows")
TEXTS = ("hub", "file", "open_assistant")  # places that can be written NAME:PLACE
HUB = "hub:"
_FIRST_TURN = {"prompt": "prompt", "response": "response"}
COLUMNS = ("prompt", "input", "response", "chosen", "rejected", "messages", "system")


def share_of(total: int, share: float) -> int:
    """The share (0 to 1) of so many, rounded up: at least one of any. 0.1 of 30 is 3, whatever floats say."""
    return min(total, max(1, math.ceil(round(share * total, 9))))


class DataSource(BaseModel):
    """`{hub: OWNER/NAME, split: train, limit: 3200}`, or as text `hub:OWNER/NAME#split=train&limit=3200`.

    file: a file, a pattern of files (`data/*.jsonl`, in order of name), a folder that `datasets` saved, or a
        list of these.
    hub: a data set of the Hugging Face hub, or a folder of data files. streaming: its rows are read as they
        come, and nothing of it is kept on disk.
    open_assistant: message trees or messages (a file, or `hub:OpenAssistant/oasst1`, whose split, config and
        revision may stand here), of which the reply ranked best to each first turn is taken.
    rows: items in memory.
    split: a name, a slice as `datasets` writes it (`train[:95%]`, `train[-500:]`), or several joined by `+`.
        A file is one split, train.
    prompt, response, chosen, rejected, messages, system: the columns that hold these. input: a column that
        belongs below the prompt. Without them they are found by name (roles.py).
    turns: of conversations all answers, or the first question and its answer alone.
    skip, limit: rows. share: the first so many of what is left, rounded up.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    file: Any = None
    hub: str | None = None
    open_assistant: Any = None
    rows: Any = None
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    lang: str | None = "en"  # of open_assistant; null: any
    streaming: bool = False
    prompt: str | None = None
    input: str | None = None
    response: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    messages: str | None = None
    system: str | None = None
    turns: Literal["all", "first"] = "all"
    skip: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @field_validator("lang")
    @classmethod
    def _any_language(cls, lang: str | None) -> str | None:
        """In a text nothing is written for it."""
        return lang or None

    @field_validator("split")
    @classmethod
    def _joined_by_plus(cls, split: str) -> str:
        """In a text after # a plus is read as a blank."""
        return "+".join(split.replace("+", " ").split())

    @model_validator(mode="after")
    def _one_place(self) -> DataSource:
        named = [name for name in PLACES if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(f"needs one of {', '.join(PLACES)}, but has {' and '.join(named) or 'none'}")
        if self.messages is not None and (self.prompt is not None or self.response is not None):
            raise ValueError("messages holds both prompt and response; leave those two out")
        if self.input is not None and self.prompt is None:
            raise ValueError("input stands below the prompt; name that column too, as prompt")
        if self.streaming and self.hub is None:
            raise ValueError("streaming is of data sets named by hub; files are read as they come anyway")
        pieces(self.split)  # which says what is wrong
        return self

    @property
    def is_in_files(self) -> bool:
        return self.rows is None

    def said(self) -> dict[str, Any]:
        """What was given, in the order of the settings."""
        given = {
            name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set
        }
        return {name: value for name, value in given.items() if value is not None or name == "lang"}

    def open_assistant_source(self) -> Any:
        """Where the messages are."""
        place = self.open_assistant
        if not (isinstance(place, str) and place.startswith(HUB)) or "#" in place:
            return place
        hub = place.removeprefix(HUB)
        return DataSource(hub=hub, split=self.split, config=self.config, revision=self.revision)

    def as_text(self) -> str | None:
        """The same in one string; None where its place cannot be written so."""
        name = next((name for name in TEXTS if getattr(self, name) is not None), "")
        place = getattr(self, name, None)
        if not isinstance(place, str | Path) or "#" in str(place):
            return None
        options = [
            f"{key}={quote('' if value is None else str(value))}"
            for key, value in self.said().items()
            if key not in PLACES
        ]
        return f"{name}:{place}" + (f"#{'&'.join(options)}" if options else "")

    @property
    def needs_total(self) -> bool:
        """Whether the number of all rows must be known to tell which are taken."""
        return self.share != 1 or any(piece.needs_total for piece in pieces(self.split))

    def picked(self, total: int, *, of_slice: bool = False) -> range:
        """Which of `total` rows are taken. of_slice: those are what the split's slice has left already."""
        left = range(total) if of_slice else range(total)[self._slice().of(total)]
        left = left[self.skip :]
        wanted = share_of(len(left), self.share)
        return left[: wanted if self.limit is None else min(wanted, self.limit)]

    def _slice(self) -> Slice:
        """Of a file or rows, which are one split."""
        found = pieces(self.split)
        if len(found) > 1 or found[0].name != "train":
            raise DataError(
                f"data source {self.said()!r:.200} asks for split {self.split!r}, but a file is one "
                "split, train; name the file that holds it, or take a part of this one: train[:95%] (for "
                "several parts, give a list of sources)"
            )
        return found[0]

    def whole(self) -> DataSource:
        """The same columns of all rows: what its first row looks like can be told without counting."""
        names = "+".join(piece.name for piece in pieces(self.split))
        return self.model_copy(update={"share": 1.0, "skip": 0, "limit": None, "split": names})

    def shaped(self, row: Any, number: int) -> Any:
        """A row with its columns named as they are here."""
        wanted = {name: column for name in COLUMNS if (column := getattr(self, name)) is not None}
        if not wanted and self.turns == "all":
            return row
        if not isinstance(row, Mapping):
            raise DataError(f"item {number} is {type(row).__name__} and has no columns to choose from")
        row = renamed(row, wanted, number) if wanted else row
        if self.turns == "all":
            return row
        messages = Roles.of(row, number).needed("messages", number)
        return renamed({**row, **first_turn(row[messages], number)}, _FIRST_TURN, number)


def described(source: Any) -> DataSource | None:
    """The source where a mapping or a text says one; None where it is anything else.

    Raises DataError for one that is said wrongly.
    """
    if is_text(source):
        given = _from_text(source)
    elif isinstance(source, Mapping) and any(place in source for place in PLACES):
        given = dict(source)
    else:
        return source if isinstance(source, DataSource) else None
    for key in given:
        if key not in DataSource.model_fields:
            raise DataError(
                f"data source {source!r}: {unknown_name('key', str(key), DataSource.model_fields)}"
            )
    try:
        return DataSource.model_validate(given)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise DataError(f"data source {source!r} cannot be read: {faults}") from error


def is_text(source: Any) -> bool:
    """Whether the source is written `hub:...`, `file:...` or `open_assistant:...`."""
    return isinstance(source, str) and source.partition(":")[0] in TEXTS and ":" in source


def _from_text(source: str) -> dict[str, Any]:
    scheme, _, rest = source.partition(":")
    name, _, fragment = rest.partition("#")
    if not name:
        raise DataError(f"data source {source!r} names nothing; write {scheme}:NAME#split=train&limit=100")
    return {**dict(parse_qsl(fragment, keep_blank_values=True)), scheme: name}

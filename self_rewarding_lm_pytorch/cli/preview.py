"""`preview DATA`: how data would be read, before anything is trained on them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from self_rewarding_lm_pytorch.cli.output import echo

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.data.formats import Form, Use

_LONGEST = 600  # characters of a message that are shown


@dataclass
class Preview:
    """One file or data set. uses: its form for what it can be used as, and for the others why not."""

    place: str
    rows: int | None
    splits: list[str]
    uses: dict[Use, Form | str]
    shown_as: Use | None
    examples: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        uses: dict[str, Any] = {}
        for use, form in self.uses.items():
            if isinstance(form, str):
                uses[use] = {"refused": form}
            else:
                uses[use] = {"form": form.name, "mapping": form.mapping, "unused": list(form.unused)}
        return {
            "place": self.place,
            "rows": self.rows,
            "splits": self.splits,
            "uses": uses,
            "shown_as": self.shown_as,
            "examples": self.examples,
        }


def preview(
    data: Annotated[
        list[str],
        typer.Argument(help="Files, patterns, folders that `datasets` saved, or hub:NAME#split=train_sft."),
    ],
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="Rows to show of each.")] = 3,
    split: Annotated[
        str | None, typer.Option("--split", help="A split or a part of one, as train[:5%].")
    ] = None,
    shown_as: Annotated[
        str | None, typer.Option("--as", help="Show rows as prompts, supervised or pairs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; texts in full.")] = False,
) -> None:
    """Show how data are read: their form, which columns are what, and the first rows as they would be used.

    In a plan the same is written {file: FILE, prompt: COLUMN, response: COLUMN, split: ...}.
    """
    from self_rewarding_lm_pytorch.data.formats import READERS
    from self_rewarding_lm_pytorch.data.readers import parts_of
    from self_rewarding_lm_pytorch.errors import ConfigError

    if shown_as is not None and shown_as not in READERS:
        raise ConfigError(f"--as {shown_as!r} is none of {', '.join(READERS)}")
    sources = [_with_split(part, split) for place in data for part in parts_of(place)]
    found = [_look(source, num, shown_as) for source in sources]
    if as_json:
        echo(json.dumps([each.as_dict() for each in found], indent=2, ensure_ascii=False))
    else:
        for each in found:
            _show(each)
    if any(each.shown_as is None for each in found):
        raise typer.Exit(1)


def _with_split(place: Any, split: str | None) -> Any:
    from self_rewarding_lm_pytorch.data.sources import described

    if split is None:
        return place
    wanted = described(place)
    said = {"file": place} if wanted is None else wanted.said()
    return described({**said, "split": split})


def _look(source: Any, num: int, shown_as: str | None) -> Preview:
    from self_rewarding_lm_pytorch.data.counts import count_rows
    from self_rewarding_lm_pytorch.data.formats import place_of, uses_of
    from self_rewarding_lm_pytorch.data.made import each_made

    rows: list[Any] = []
    for row in each_made(source, lambda row, number: row, is_steady=False):
        rows.append(row)
        if len(rows) == num:
            break
    uses = uses_of(rows[0])
    fitting: list[Use] = [use for use in ("pairs", "supervised", "prompts") if not isinstance(uses[use], str)]
    chosen = next((use for use in fitting if shown_as in (None, use)), None)
    found = Preview(place_of(source), count_rows(source), _splits(source), uses, chosen)
    if chosen is not None:
        found.examples = [_example(row, number, chosen, rows[0]) for number, row in enumerate(rows)]
    return found


def _splits(source: Any) -> list[str]:
    """Of what `datasets` reads."""
    from self_rewarding_lm_pytorch.data.hub import is_saved, split_names
    from self_rewarding_lm_pytorch.data.sources import described

    wanted = described(source)
    place = source if wanted is None else wanted.hub or wanted.file
    is_of_hub = wanted is not None and wanted.hub is not None
    if not isinstance(place, str | Path) or not (is_of_hub or is_saved(Path(place))):
        return []
    return split_names(str(place), None, None if wanted is None else wanted.config)


def _example(row: Any, number: int, use: Use, first: Any) -> dict[str, Any]:
    """A row as it would be used; of one that cannot be, why not. first: the row whose form counts."""
    from collections.abc import Mapping

    from self_rewarding_lm_pytorch.data.formats import READERS
    from self_rewarding_lm_pytorch.data.roles import Roles, held_to
    from self_rewarding_lm_pytorch.errors import DataError

    try:
        if isinstance(first, Mapping):
            held_to(Roles.of(first, 0), row, number)
        made = READERS[use](row, number)
    except DataError as error:
        return {"refused": str(error)}
    if use == "pairs":
        asked, chosen, rejected = made
        return {"messages": _turns(asked), "chosen": chosen, "rejected": rejected}
    if isinstance(made, str):
        return {"messages": [{"role": "user", "content": made, "is_trained_on": False}]}
    return {"messages": _turns(made, is_trained_on=use == "supervised")}


def _turns(turns: Any, *, is_trained_on: bool = False) -> list[dict[str, Any]]:
    return [
        {"role": turn.role, "content": turn.content, "is_trained_on": is_trained_on and turn.is_trained_on}
        for turn in turns
    ]


def _show(found: Preview) -> None:
    from self_rewarding_lm_pytorch.data.formats import STAGES

    form = found.uses[found.shown_as] if found.shown_as is not None else "of no form that is known"
    count = "" if found.rows is None else f"; {found.rows:,} row{'' if found.rows == 1 else 's'}"
    echo(f"{found.place}: {form}{count}")
    if found.splits:
        echo(f"  splits: {', '.join(found.splits)}")
    for use, each in found.uses.items():
        echo(f"  not as {use}: {each}" if isinstance(each, str) else f"  as {use}: {STAGES[use]}")
    for number, example in enumerate(found.examples):
        echo(f"\nrow {number}")
        if "refused" in example:
            echo(f"  refused: {example['refused']}")
            continue
        for turn in example["messages"]:
            _say(turn["role"] + (", trained on" if turn["is_trained_on"] else ""), turn["content"])
        for name in ("chosen", "rejected"):
            if name in example:
                _say(name, example[name])
    echo("")


def _say(speaker: str, text: str) -> None:
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text):,} characters)"
    echo(f"  [{speaker}]")
    echo("\n".join(f"    {line}" for line in cut.split("\n")))

"""Which of a row's columns holds what, by the names that people give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from self_rewarding_lm_pytorch.errors import DataError

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "query", "input"),
    "response": ("response", "completion", "output", "answer"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "messages": ("messages", "conversations", "conversation"),
    "system": ("system", "system_prompt"),
    "input": ("input", "context"),
    "history": ("history",),
}
"""What a column holds -> names it may have. `input` counts beside `instruction` alone, where it belongs to
the prompt; without any other name of a prompt it is the prompt itself."""
BELOW = "\n"
"""Between an instruction and its input, as most trainers join them."""
_BESIDE_INSTRUCTION = ("input", "history")
_MAIN = ("prompt", "response", "chosen", "rejected", "messages")


@dataclass(frozen=True)
class Roles:
    """The columns of a row that hold something, by what they hold."""

    columns: dict[str, tuple[str, ...]]
    all: tuple[str, ...]  # every column of the row

    @classmethod
    def of(cls, row: Any, number: int) -> Roles:
        """Of a row; a column that holds null counts only where no other of its kind holds more."""
        if not isinstance(row, Mapping):
            raise DataError(f"item {number} is {type(row).__name__}; expected a mapping with 'prompt'")
        every = tuple(map(str, row))
        known = _by_name(every)
        if any(len(names) > 1 for names in known.values()):
            held = {role: tuple(n for n in names if row[n] is not None) for role, names in known.items()}
            known = {role: held[role] or names[:1] for role, names in known.items()}
        return cls(known, every)

    def has(self, role: str) -> bool:
        return bool(self.columns[role])

    def column(self, role: str, number: int) -> str | None:
        """The one that holds it, or None. Raises DataError where several may."""
        names = self.columns[role]
        if len(names) > 1:
            raise DataError(
                f"item {number} has {' and '.join(map(repr, names))}, and each may be the {role}; say which "
                f"is: {{file: ..., {role}: {names[0]}}}"
            )
        return names[0] if names else None

    def needed(self, role: str, number: int) -> str:
        """The one that holds it. Raises DataError where none does."""
        name = self.column(role, number)
        if name is None:
            raise DataError(
                f"item {number} has the columns {sorted(self.all)}, none of them {' or '.join(NAMES[role])}; "
                f"rename the column, or say which it is: {{file: ..., {role}: COLUMN}}"
            )
        return name


@lru_cache(maxsize=64)
def _by_name(columns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    found = {role: tuple(name for name in names if name in columns) for role, names in NAMES.items()}
    if found["prompt"] != ("input",):
        found["prompt"] = tuple(name for name in found["prompt"] if name != "input")
    if "instruction" not in found["prompt"]:
        found |= dict.fromkeys(_BESIDE_INSTRUCTION, ())
    return found


def renamed(row: Mapping[str, Any], wanted: Mapping[str, str], number: int) -> dict[str, Any]:
    """A row whose columns `wanted` (what they hold -> their names here) are called as the library calls them.

    What stands under other names for the same is left out, so that nothing can be mistaken for it.
    """
    taken = {role: _named(row, column, number) for role, column in wanted.items()}
    roles = set(wanted)
    if "messages" in wanted:
        roles |= {"prompt", "response"}
    if roles & {"prompt", "response"}:
        roles |= {"messages"}
    known = {name for names in NAMES.values() for name in names}
    gone = {name for role in roles for name in NAMES[role]} | (set(wanted.values()) - known)
    left = {name: value for name, value in row.items() if name not in gone}
    below = taken.pop("input", None)
    if isinstance(below, str) and below.strip() and isinstance(taken["prompt"], str):
        taken["prompt"] = f"{taken['prompt']}{BELOW}{below}"
    return {**left, **taken}


def held_to(first: Roles, row: Any, number: int) -> None:
    """Raises DataError for a row that says what the first row of its source has under other names."""
    if not isinstance(row, Mapping):
        return
    now = Roles.of(row, number)
    if now.columns == first.columns:
        return
    for role in _MAIN:
        other = [
            name for name in now.columns[role] if name not in first.columns[role] and row[name] is not None
        ]
        if other:
            before = [name for each in _MAIN for name in first.columns[each]]
            raise DataError(
                f"item {number} has a column {other[0]!r}, but the rows before it have "
                f"{', '.join(before) or 'none that is known'}; rows of one source have one form: keep others "
                f"in a file of their own, or say which columns count ({{file: ..., {role}: {other[0]}}})"
            )


def _named(row: Mapping[str, Any], name: str, number: int) -> Any:
    if name not in row:
        raise DataError(f"item {number} has no column {name!r}; it has {', '.join(sorted(map(str, row)))}")
    return row[name]

"""The forms that data come in, found by a row's columns, and what each is used as.

    alpaca                      {instruction, output}, with input (or context), system, history
    OpenAI messages             {messages: [{role, content}, ...]}; content is text, or a list of text parts;
                                weight 0 of an assistant's message: it is not trained on
    ShareGPT                    {conversations: [{from, value}, ...]}, with system
    prompt/completion           {prompt, completion} and other names for them, as text or as messages
    prompt/chosen/rejected      as text, or as messages, which may repeat the prompt; it may then be missing
    prompts                     {prompt}, messages that end with a user's, or lines of text

Sources: TRL's "Dataset formats and types", LLaMA-Factory's data/README, OpenAI's chat format. A form is
found by the first row of a source and then holds for all of it (`roles.held_to`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from self_rewarding_lm_pytorch.data.columns import pair_of, prompt_of, supervised_of
from self_rewarding_lm_pytorch.data.conversations import conversation_of, has_weights, is_messages
from self_rewarding_lm_pytorch.data.counts import count_rows
from self_rewarding_lm_pytorch.data.open_assistant import is_message, is_tree
from self_rewarding_lm_pytorch.data.readers import Source, each_row, is_in_files, parts_of
from self_rewarding_lm_pytorch.data.roles import Roles
from self_rewarding_lm_pytorch.data.sources import DataSource, described
from self_rewarding_lm_pytorch.errors import DataError

Use = Literal["prompts", "supervised", "pairs"]
"""What rows are read as: prompts to answer, conversations to train on, or pairs of answers."""
READERS: dict[Use, Callable[[Any, int], Any]] = {
    "prompts": prompt_of,
    "supervised": supervised_of,
    "pairs": pair_of,
}
STAGES: dict[Use, str] = {
    "prompts": "prompts of self_reward, meta_reward, external_reward, online; seeds of self_instruct",
    "supervised": "data of sft, spin",
    "pairs": "data of dpo",
}
"""What a plan's stages use such rows as."""


@dataclass(frozen=True)
class Form:
    """How the rows of a source are read. mapping: in words, which columns are what."""

    name: str
    mapping: str = ""
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.name, self.mapping, f"not used: {', '.join(self.unused)}" if self.unused else ""]
        return "; ".join(part for part in parts if part)


def form_of(row: Any, use: Use, number: int = 0) -> Form:
    """The form of a row that is used so. Raises DataError for one that cannot be, with what to do."""
    if isinstance(row, str):
        READERS[use](row, number)  # only prompts may be text
        return Form("text, a prompt each")
    if not isinstance(row, Mapping):
        return Form("token ids")
    if is_tree(row) or is_message(row):
        raise DataError(
            "these are Open Assistant's trees or messages; name them as {open_assistant: FILE}, and the best "
            "reply to each first question is taken"
        )
    READERS[use](row, number)
    roles = Roles.of(row, number)
    return {"prompts": _as_prompts, "supervised": _as_supervised, "pairs": _as_pairs}[use](row, roles)


def uses_of(row: Any, number: int = 0) -> dict[Use, Form | str]:
    """What a row can be used as, and in which form; for each other use, why not."""
    found: dict[Use, Form | str] = {}
    for use in READERS:
        try:
            found[use] = form_of(row, use, number)
        except DataError as error:
            found[use] = str(error)
    return found


def told(source: Source, use: Use, *, base: Path | None = None, rows: int | None = None) -> list[str]:
    """A line for each file or data set of the source: its form, and which columns are what.

    rows: how many it has, where that is known; else it is said where it is cheap to count. Nothing is told of
    what can be read only once.
    """
    if not is_in_files(source) and not isinstance(source, list | tuple):
        return []
    parts = parts_of(source, base=base)
    lines = []
    for part in parts:
        wanted = described(part)
        if (
            wanted is not None and wanted.open_assistant is not None
        ):  # which is read as a whole, or not at all
            lines.append(f"{place_of(part)}: Open Assistant; the reply ranked best to each first question")
            continue
        first = first_rows(part, 1, base=base)
        if first:
            count = rows if len(parts) == 1 and rows is not None else count_rows(part, base=base)
            said = "" if count is None else f"; {count:,} {'row' if count == 1 else 'rows'}"
            lines.append(f"{place_of(part)}: {form_of(first[0], use)}{said}")
    return lines


def first_rows(source: Source, num: int, *, base: Path | None = None) -> list[Any]:
    """The first rows as they are named by the source, whichever part of it is taken."""
    wanted = described(source)
    whole = source if wanted is None or wanted.streaming else wanted.whole()
    return list(islice(each_row(whole, base=base), num))


def place_of(source: Source) -> str:
    """Where a source is, in few words."""
    wanted = described(source)
    if wanted is None:
        return str(source) if isinstance(source, str | Path) else "items in memory"
    place = next(
        getattr(wanted, name) for name in ("file", "hub", "open_assistant", "rows") if _has(wanted, name)
    )
    if wanted.rows is not None:
        return "items in memory"
    is_split = wanted.split != "train" or wanted.hub is not None
    return f"{place!s:.100}" + (f", split {wanted.split}" if is_split else "")


def _has(source: DataSource, name: str) -> bool:
    return getattr(source, name) is not None


def _as_prompts(row: Mapping[str, Any], roles: Roles) -> Form:
    if roles.has("prompt"):
        column = roles.columns["prompt"][0]
        name = "alpaca" if column == "instruction" else "prompts"
        name += " as messages" if is_messages(row[column]) else ""
        return _form(name, {"prompt": _asked(row, roles, column)}, roles)
    if roles.has("messages"):
        column = roles.columns["messages"][0]
        ends = conversation_of(row[column], "")[-1].role
        text = column if ends == "user" else f"{column} without the last answer"
        return _form(_conversation_name(row[column]), {"prompt": text}, roles, used=(column,))
    return _form(
        "chosen/rejected",
        {"prompt": "what chosen and rejected begin with"},
        roles,
        used=("chosen", "rejected"),
    )


def _as_supervised(row: Mapping[str, Any], roles: Roles) -> Form:
    if roles.has("messages") and not roles.has("response"):
        column = roles.columns["messages"][0]
        but = " but those of weight 0" if has_weights(row[column]) else ""
        trained = {"trained on": f"every answer in {column}{but}"}
        return _form(_conversation_name(row[column]), trained, roles, used=(column,))
    prompt, response = roles.columns["prompt"][0], roles.columns["response"][0]
    name = "alpaca" if (prompt, response) == ("instruction", "output") else f"{prompt}/{response}"
    name += " as messages" if is_messages(row[prompt]) or is_messages(row[response]) else ""
    return _form(name, {"prompt": _asked(row, roles, prompt), "response": response}, roles)


def _as_pairs(row: Mapping[str, Any], roles: Roles) -> Form:
    repeats = is_messages(row["chosen"]) and len(conversation_of(row["chosen"], "")) > 1
    kind = " as messages" if is_messages(row["chosen"]) else ""
    mapping = {"chosen": "chosen", "rejected": "rejected"}
    if repeats:
        said = "what chosen and rejected begin with"
        return _form(
            f"chosen/rejected{kind}", {"prompt": said, **mapping}, roles, used=("chosen", "rejected")
        )
    column = roles.columns["prompt"][0] if roles.has("prompt") else roles.columns["messages"][0]
    return _form(f"{column}/chosen/rejected{kind}", {"prompt": _asked(row, roles, column), **mapping}, roles)


def _asked(row: Mapping[str, Any], roles: Roles, column: str) -> str:
    parts = [column]
    if not is_messages(row[column]):
        parts += roles.columns["input"][:1]
        parts = list(roles.columns["history"][:1]) + parts
    return " + ".join(parts)


def _form(name: str, mapping: dict[str, str], roles: Roles, used: tuple[str, ...] = ()) -> Form:
    system = {"system": roles.columns["system"][0]} if roles.has("system") else {}
    said = {**system, **mapping}
    taken = {word for text in said.values() for word in text.split(" + ")} | set(used)
    words = ", ".join(
        f"{what} = {column}" for what, column in said.items() if what != column or what == "system"
    )
    return Form(
        name, words.replace("trained on = ", "trained on: "), tuple(n for n in roles.all if n not in taken)
    )


def _conversation_name(value: Any) -> str:
    first = value if isinstance(value, Mapping) else value[0]
    return "ShareGPT" if "from" in first else "OpenAI messages"

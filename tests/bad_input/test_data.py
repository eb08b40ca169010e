"""Data files that are broken, empty, of another form, or hold what no tokenizer can read."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from self_rewarding_lm_pytorch.data.judged import read_judged
from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from tests.bad_input.table import Case, World, cases, check, stage

GOOD = b'{"prompt": "q", "response": "yes"}\n'
BIG = 10_000_000  # bytes of a line


def sft(name: str, content: bytes, *words: str) -> tuple[Any, tuple[str, ...]]:
    """A file to train on, given to a run, and the words it is refused with."""
    return (lambda world: world.plan(stage("seed", data=world.file(name, content)))), (name, *words)


def items(*rows: Any) -> Any:
    """Items in memory to train on, whose stage reads them as it begins."""
    return lambda world: world.plan(stage("seed", data=list(rows)))


def talk(*speakers: Any) -> list[dict[str, Any]]:
    """Messages; of (KIND, speaker) one that is no text."""
    return [
        {"role": each, "content": "text"}
        if isinstance(each, str)
        else {"role": each[1], "content": [{"type": each[0]}]}
        for each in speakers
    ]


def row(
    *words: str, kind: str = "seed", first: dict[str, Any] | None = None, **values: Any
) -> tuple[Any, tuple[str, ...]]:
    """A file whose second row is wrong. first: more columns of the first."""
    good: dict[str, Any] = {"prompt": "q?", "response": "yes", "chosen": "yes", "rejected": "no"}
    if "messages" in values:
        good = {"messages": talk("user", "assistant")} if "prompt" not in values else good
    good = {**good, **(first or {})}
    lines = "".join(json.dumps(each) + "\n" for each in (good, values))
    return (lambda world: world.plan(stage(kind, data=world.file("rows.jsonl", lines)))), words


def asking(*words: str, context: int | None = None, **row: Any) -> tuple[Any, tuple[str, ...]]:
    """A file of prompts whose second one is wrong."""
    lines = "".join(json.dumps(each) + "\n" for each in ({"prompt": "why?"}, row))
    return (lambda world: world.plan(stage("text", prompts=world.file("prompts.jsonl", lines)))), words


def judged(*words: str, **row: Any) -> tuple[Callable[[World], Any], tuple[str, ...]]:
    """People's judgments, whose second row is wrong."""
    lines = "".join(
        json.dumps(each) + "\n" for each in ({"prompt": "a", "chosen": "b", "rejected": "c"}, row)
    )
    return (lambda world: lambda: read_judged(world.file("judged.jsonl", lines))), words


def source(*words: str, **settings: Any) -> tuple[Any, tuple[str, ...]]:
    """A described source over a good file."""

    def make(world: World) -> Any:
        return world.plan(stage("seed", data={"file": world.file("rows.jsonl", GOOD * 3), **settings}))

    return make, words


def parquet(cut: int) -> bytes:
    """A good Parquet file without its last bytes."""
    whole = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["q"] * 99, "response": ["yes"] * 99}), whole)
    return whole.getvalue()[:-cut]


def folder(world: World) -> Any:
    world.file("data/rows.jsonl", GOOD)
    return world.plan(stage("seed", data=str(world.given / "data")))


def misspelt(world: World) -> Any:
    world.file("seeds.jsonl", GOOD)
    return world.plan(stage("seed", data=str(world.given / "seed.jsonl")))


def linked(place: str) -> Any:
    """A link that leads there."""

    def make(world: World) -> Any:
        path = world.given / "link.jsonl"
        path.symlink_to(place)
        return world.plan(stage("seed", data=str(path)))

    return make


def failing_disk(world: World) -> Any:
    """A file whose first bytes nobody can read, whoever runs the tests."""
    linked("/proc/self/mem")(world)
    return lambda: read_rows(world.given / "link.jsonl")


def too_long(world: World) -> Any:
    text = "why " * 250_000
    path = world.file("prompts.jsonl", json.dumps({"prompt": text}) + "\n")
    return world.plan(stage("text", prompts=path, max_seq_len=64))


def longer_than_context(kind: str, **changes: Any) -> Any:
    def make(world: World) -> Any:
        rows = {"prompt": "q" * 200, "response": "yes", "chosen": "yes", "rejected": "no"}
        path = world.file("rows.jsonl", json.dumps(rows) + "\n")
        key = "prompts" if kind == "text" else "data"
        model = {"model": "tests.bad_input.models:with_context"}
        return world.plan(stage(kind, **{key: path}, **changes), **model)

    return make


FILES = [
    Case("a file is empty", *sft("a.jsonl", b"", "holds no items", "give a file that has some"), DataError),
    Case("a file holds blank lines", *sft("a.jsonl", b"\n \n\n", "holds no items"), DataError),
    Case("a table has a header alone", *sft("a.csv", b"prompt,response\n", "holds no items"), DataError),
    Case("a JSON line is broken", *sft("a.jsonl", GOOD * 6 + b'{"prompt": q}\n', "line 7", "mend that line")),
    Case("a JSON file is no list", *sft("a.json", b'{"data": 1}', "one dict", "expected a JSON list")),
    Case("a JSON line ends early", *sft("a.jsonl", GOOD + GOOD[:20], "line 2", "mend that line")),
    Case(
        "a key is given twice",
        *sft("a.jsonl", GOOD + b'{"prompt": "a", "prompt": "b"}', "line 2", "'prompt'"),
    ),
    Case("brackets go too deep", *sft("a.jsonl", b"[" * 200_000, "line 1", "mend that line")),
    Case("a number has too many digits", *sft("a.jsonl", b"9" * 9_000, "line 1", "mend that line")),
    Case(
        "bytes are not UTF-8",
        *sft("a.jsonl", GOOD + b'{"prompt": "na\xefve"}', "byte 49", "save it as UTF-8"),
    ),
    Case("a file is UTF-16", *sft("a.txt", "why?".encode("utf-16"), "byte 0", "save it as UTF-8")),
    Case(
        "a file holds NUL bytes",
        *sft("a.csv", b"prompt,response\nq,\0\0\0\n", "line 2, column 3", "NUL byte"),
    ),
    Case("a broken line of 10 MB", *sft("a.jsonl", b'{"prompt": "' + b"x" * BIG + b"\n", "line 1", "mend")),
    Case(
        "cells are apart by semicolons",
        *sft("a.csv", b"prompt;response\na;b\n", "'prompt;response'", "commas"),
    ),
    Case("a cell is missing", *sft("a.csv", b"prompt,response\nq,yes\nq\n", "line 3: 1 cells", "names 2")),
    Case(
        "a text holds a comma",
        *sft("a.csv", b"prompt,response\nq,oh,yes\n", "line 2: 3 cells", "double quotes"),
    ),
    Case(
        "a quote is left open", *sft("a.csv", b'prompt,response\nq,"yes\nq,no\n', "line 3", "double quotes")
    ),
    Case(
        "two columns have one name", *sft("a.csv", b"prompt,prompt\na,b\n", "called 'prompt'", "rename one")
    ),
    Case(
        "a table has no response",
        lambda world: world.plan(stage("seed", data=world.file("a.csv", b"prompt,reply\na,b\n"))),
        ("item 0", "'reply'", "rename the column"),
    ),
    Case("a Parquet file is cut off", *sft("a.parquet", parquet(40), "cannot be read as Parquet", "again")),
    Case("a Parquet file is none", *sft("a.parquet", b"PAR1 no", "cannot be read as Parquet", "again")),
    Case(
        "a packed file is cut off",
        *sft("a.jsonl.gz", gzip.compress(GOOD * 9)[:-9], "cannot be unpacked", "again"),
    ),
    Case(
        "a packed file is none", *sft("a.jsonl.gz", GOOD, "cannot be unpacked as .gz", "another kind of file")
    ),
    Case("a packed file of another name", *sft("a.csv.xz", b"prompt", "cannot be unpacked as .xz", "again")),
    Case("a bz2 file is none", *sft("a.jsonl.bz2", GOOD, "cannot be unpacked as .bz2", "again")),
    Case(
        "a Parquet file is packed again",
        *sft("a.parquet.gz", parquet(1), ".gz file, which is not read", "unpack"),
    ),
    Case("a file is packed by zstd", *sft("a.jsonl.zst", b"\x28", ".zst file, which is not read", "unpack")),
    Case(
        "a packed line is broken", *sft("a.jsonl.gz", gzip.compress(GOOD + b"{"), "line 2", "mend that line")
    ),
    Case(
        "a pattern fits no file",
        lambda world: world.plan(stage("seed", data=str(world.given / "*.jsonl"))),
        ("no file fits", "*.jsonl", "looked in"),
    ),
    Case("a data file is a pickle", *sft("a.pkl", b"\x80\x04.", ".pkl file, which is not read", ".jsonl")),
    Case("a folder is no data set", folder, ("is a folder", "name a data file in it")),
    Case("a file's name is misspelt", misspelt, ("no data file", "did you mean 'seeds.jsonl'?")),
    Case(
        "a link leads nowhere",
        linked("gone.jsonl"),
        ("link.jsonl", "it is a link to 'gone.jsonl', which is not there"),
    ),
]

ROWS = [
    Case(
        "a row has other columns",
        *row("item 1", "['answer_text', 'prompt']", "rename", prompt="a", answer_text="b"),
    ),
    Case("a response is empty", *row("item 1", "response ''", "take the row out", prompt="a", response="")),
    Case(
        "a response is null", *row("item 1", "response None", "take the row out", prompt="a", response=None)
    ),
    Case("a prompt is a number", *row("item 1", "prompt 5", "must be text", prompt=5, response="b")),
    Case(
        "a response holds NUL",
        *row("item 1", "NUL", "character 1", "take it out", prompt="a", response="b\0c"),
    ),
    Case(
        "a prompt holds half a character",
        *row("item 1", "'\\ud83d'", "take it out", prompt="\ud83d", response="b"),
    ),
    Case(
        "a rejected answer is empty",
        *row("pair 1", "''", "take the row out", kind="given", prompt="a", chosen="b", rejected=""),
    ),
    Case(
        "a pair has no rejected answer",
        *row("item 1", "rejected", "rename", kind="given", prompt="a", chosen="b"),
    ),
    Case("a prompt to answer is empty", *asking("prompt 1", "' '", "take the row out", prompt=" ")),
    Case("a prompt to answer is null", *asking("prompt 1", "None", "take the row out", prompt=None)),
    Case("no column is called prompt", *asking("item 1", "'text'", "rename the column", text="a")),
    Case(
        "a prompt holds NUL",
        *asking("prompt 1", "NUL character at character 2", "take it out", prompt="ab\0"),
    ),
    Case(
        "a conversation begins with the assistant",
        *source("item 0", "no column 'messages'", messages="messages"),
    ),
    Case(
        "a column is not there", *source("item 0", "'question'", "it has prompt, response", prompt="question")
    ),
    Case(
        "a conversation begins with its answer",
        *row(
            "item 1", "message 0 is the assistant's", "take the row out", messages=talk("assistant", "user")
        ),
    ),
    Case("a conversation is not answered", *row("item 1", "nothing answers", messages=talk("user"))),
    Case("a conversation calls a tool", *row("item 1, message 1", "a tool's", messages=talk("user", "tool"))),
    Case("a message is a picture", *row("item 1", "'image'", "only text", messages=talk(("image", "user")))),
    Case(
        "a row is of another form than those before it",
        *row(
            "item 1 has a column 'messages'",
            "prompt, response",
            "one form",
            prompt="a",
            messages=talk("user"),
        ),
    ),
    Case(
        "two columns may be the prompt",
        *row("'prompt' and 'question'", "say which", first={"question": "b"}, prompt="a", response="b"),
    ),
    Case(
        "chosen and rejected answer different questions",
        *row(
            "pair 1",
            "part at message 0",
            kind="given",
            first={"chosen": talk("user", "assistant"), "rejected": talk("user", "assistant")},
            chosen=talk("user", "assistant"),
            rejected=[{"role": "user", "content": "other"}, *talk("assistant")],
        ),
    ),
    Case(
        "a part of a file is said wrongly",
        *source("split 'train[5]' is not read", "a part of it, as train[:95%]", split="train[5]"),
    ),
    Case("a file has no other split", *source("asks for split 'test'", "one split, train", split="test")),
    Case("all rows are skipped", *source("leaves no items", "'skip': 9", skip=9)),
    Case("a limit is zero", *source("limit", "greater than or equal to 1", limit=0)),
    Case(
        "a prompt of 1 MB is too long", too_long, ("1000000 tokens", "max_seq_len 64", "shorten the prompts")
    ),
    Case(
        "an item is longer than the context",
        longer_than_context("seed"),
        ("item 0 has 204", "128", "shorten"),
    ),
    Case(
        "a pair is longer than the context",
        longer_than_context("given"),
        ("item 0 has 204", "128", "shorten"),
    ),
    Case(
        "a prompt is longer than the context", longer_than_context("text"), ("200 tokens", "128", "shorten")
    ),
]

IDS = [
    Case(
        "an id is outside the vocabulary",
        lambda world: world.plan(
            stage("seed", data=[(torch.tensor([1, 300, 2]), 1)]), model="tests.bad_input.models:with_context"
        ),
        ("item 0", "300", "0 to 255", "tokenizer that belongs to this model"),
        DataError,
        late=True,
    ),
    Case(
        "a negative id stands inside",
        items((torch.tensor([1, -1, 2]), 1)),
        ("id -1 at position 1", "padding on the right"),
        DataError,
        late=True,
    ),
    Case(
        "ids are fractions",
        items((torch.tensor([1.0, 2.5]), 1)),
        ("item 0", "2.5", "whole numbers"),
        DataError,
        late=True,
    ),
    Case(
        "ids have two dimensions",
        items((torch.ones(2, 3).long(), 1)),
        ("item 0", "(2, 3)", "one row"),
        DataError,
        late=True,
    ),
    Case(
        "a mask has another length",
        items((torch.ones(4).long(), torch.ones(3).bool())),
        ("item 0", "(3,)", "(4,)", "must be equal"),
        DataError,
        late=True,
    ),
    Case(
        "all of an item is prompt",
        items((torch.ones(4).long(), 4)),
        ("item 0", "4 tokens, all of them prompt", "Check the prompt length"),
        DataError,
        late=True,
    ),
    Case("items are numbers", items(5, 6), ("item 0 is int", "prompt and response"), DataError, late=True),
]

if Path("/proc/self/mem").exists():
    words = ("link.jsonl", "Input/output error", "its disk")
    IDS.append(Case("a file cannot be read", failing_disk, words, DataError))

JUDGED = [
    Case(
        "a score is text",
        *judged("item 1", "'good'", "finite numbers, or null", prompt="a", response="b", score="good"),
    ),
    Case(
        "a score is infinite",
        *judged("item 1", "inf", "finite", prompt="a", response="b", score=float("inf")),
    ),
    Case(
        "scores and responses differ in number",
        *judged("item 1", "[1]", "a list of 2", prompt="a", responses=["b", "c"], scores=[1]),
    ),
    Case(
        "the best is none of them",
        *judged("item 1", "best is 2", "from 0", prompt="a", responses=["b", "c"], best=2),
    ),
    Case(
        "scores and ranks are given",
        *judged(
            "item 1",
            "scores and ranks",
            "give exactly one",
            prompt="a",
            responses=["b"],
            scores=[1],
            ranks=[0],
        ),
    ),
    Case(
        "a row is of no known form",
        *judged("item 1", "'reply'", "{prompt, response, score}", prompt="a", reply="b"),
    ),
    Case("a response is a list", *judged("item 1", "['b']", "text", prompt="a", chosen=["b"], rejected="c")),
]


def as_data(case: Case) -> Case:
    """Read in a plan's check, the error is one of the plan's problems."""
    return Case(case.name, case.make, case.words, ConfigError)


CASES = [*map(as_data, [*FILES, *ROWS]), *IDS]


@cases(CASES)
def test_wrong_data_are_refused_in_words_and_nothing_is_written(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@cases(JUDGED)
def test_wrong_judgments_are_refused_in_words(case: Case, tmp_path: Path) -> None:
    world = World(tmp_path)
    read = case.make(world)
    with pytest.raises(DataError) as error:
        read()
    assert all(word in str(error.value) for word in case.words), str(error.value)


def test_a_line_of_10_mb_and_a_cell_of_1_mb_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "x" * BIG}) + "\n" + GOOD.decode())
    long, short = read_rows(tmp_path / "a.jsonl")
    assert (len(long["prompt"]), short["response"]) == (BIG, "yes")
    (tmp_path / "a.csv").write_text("prompt,response\n" + "x" * 1_000_000 + ",yes\n")
    assert [len(each["prompt"]) for each in read_rows(tmp_path / "a.csv")] == [1_000_000]

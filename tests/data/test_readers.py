"""What people bring: every usual format read in order, every fault named with its place."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.data.columns import pair_of, prompt_text, supervised_of
from self_rewarding_lm_pytorch.data.counts import count_rows
from self_rewarding_lm_pytorch.data.readers import is_in_files, read_rows
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Message

ROWS = [
    {"prompt": "one, two?", "response": 'he said "so"'},
    {"prompt": "naïve 漢字", "response": "first line\nsecond line"},
]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False), encoding="utf-8")
    elif kind in ("csv", "tsv"):
        comma = "," if kind == "csv" else "\t"
        quoted = ['"' + row[key].replace('"', '""') + '"' for row in ROWS for key in ("prompt", "response")]
        lines = [f"prompt{comma}response", comma.join(quoted[:2]), comma.join(quoted[2:])]
        path.write_bytes(("\r\n".join(lines) + "\r\n").encode())
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_the_same_rows_come_out_of_every_format(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    assert read_rows(path) == ROWS
    assert read_rows(str(path)) == ROWS


def test_a_text_file_is_a_prompt_for_each_line_that_is_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("first\n\n  second\u2028still second \n\n", encoding="utf-8")
    assert read_rows(path) == ["first", "  second\u2028still second "]


def test_several_files_of_several_formats_are_joined_in_order(tmp_path: Path) -> None:
    paths = [written(tmp_path, kind) for kind in ("parquet", "csv", "jsonl")]
    assert read_rows(paths) == read_rows(tuple(map(str, paths))) == ROWS * 3


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_a_byte_order_mark_as_excel_writes_it_is_no_part_of_the_text(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_rows(path) == ROWS


def test_a_relative_file_is_looked_for_beside_the_plan_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "plan" / "a.txt").write_text("beside the plan")
    for name in ("a.txt", "b.txt"):
        (tmp_path / "here" / name).write_text("in the working directory")
    monkeypatch.chdir(tmp_path / "here")
    assert read_rows("a.txt", base=tmp_path / "plan") == ["beside the plan"]
    assert read_rows("b.txt", base=tmp_path / "plan") == ["in the working directory"]
    assert read_rows(["a.txt"], base=tmp_path / "plan") == ["beside the plan"]


class Counted:
    """A data set that counts how often each item is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> str:
        self.asked.append(index)
        return f"item {index}"


def test_a_data_set_is_read_once_in_order() -> None:
    data = Counted()
    assert read_rows(data) == ["item 0", "item 1", "item 2"]
    assert data.asked == [0, 1, 2]


def test_lists_tuples_generators_and_hugging_face_data_sets_are_read() -> None:
    import datasets

    assert read_rows(["a prompt", "another"]) == ["a prompt", "another"]
    assert read_rows(("a", "b")) == ["a", "b"]
    assert read_rows(row for row in ROWS) == ROWS
    assert read_rows(datasets.Dataset.from_list(ROWS)) == ROWS
    assert read_rows([(torch.arange(3), 1)])[0][1] == 1


def test_a_list_of_prompts_is_not_taken_for_files() -> None:
    assert not is_in_files(["what is a.txt about?", "prompt"])
    assert not is_in_files([])
    assert not is_in_files(None)
    assert is_in_files("rows.jsonl")
    assert is_in_files(["a.jsonl", Path("b.csv")])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n\n{"prompt": b}\n', r"a\.jsonl, line 3: not JSON.*column 12.*prompt"),
        ("a.json", b'[\n {"prompt": "a"},\n {"prompt": }\n]', r"a\.json, line 3: not JSON.*'  ?\{\"prompt"),
        ("a.json", b'{"data": [1, 2]}', r"a\.json holds one dict; expected a JSON list"),
        ("a.json", b'"text"', r"a\.json holds one str; expected a JSON list"),
        ("a.json", b"", r"a\.json, line 1: not JSON"),
        ("a.txt", b"fine\nna\xefve", r"a\.txt is not UTF-8 text at byte 7; save it as UTF-8"),
        ("a.jsonl", b"\xff\xfe{\x00", "not UTF-8"),
        ("a.jsonl", b"\n \n", "holds no items"),
        ("a.json", b"[]", "holds no items"),
        ("a.csv", b"prompt,response\n", "holds no items"),
        ("a.txt", b"", "holds no items"),
        ("a.parquet", b"PAR1 but not really", r"a\.parquet cannot be read as Parquet"),
    ],
)
def test_a_broken_or_empty_file_is_named_with_the_place(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("source", ["gone.jsonl", Path("gone.parquet"), ["gone.csv"]])
def test_a_missing_file_is_named_with_where_it_was_looked_for(source: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"there is no data file .*{tmp_path.name}"):
        read_rows(source, base=tmp_path)


@pytest.mark.parametrize("source", [{"prompt": "a"}, 5, None])
def test_what_is_no_data_is_refused_by_its_type(source: Any) -> None:
    with pytest.raises(DataError, match=f"not {type(source).__name__}"):
        read_rows(source)


@pytest.mark.parametrize("name", ["prompt", "instruction", "question"])
def test_a_prompt_is_text_or_a_row_with_one_of_the_usual_names(name: str) -> None:
    assert prompt_text({name: "why?", "other": 1}, 0) == "why?"
    assert prompt_text("why?", 0) == "why?"


def answered(asked: str, answer: str) -> tuple[Message, ...]:
    return Message("user", asked), Message("assistant", answer)


@pytest.mark.parametrize("name", ["response", "completion", "output", "answer"])
def test_a_response_is_found_under_the_usual_names(name: str) -> None:
    assert supervised_of({"prompt": "why?", name: "so"}, 0) == answered("why?", "so")


def test_an_empty_prompt_may_be_trained_on_but_not_sampled_from() -> None:
    assert supervised_of({"prompt": "", "response": "so"}, 0) == answered("", "so")
    with pytest.raises(DataError, match="prompt 4 is ' '"):
        prompt_text(" ", 4)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_text": "a", "response": "b"}, r"item 7 has the columns \['question_text', 'response'\]"),
        ({"prompt": "a", "reply": "b"}, "none of them response or completion or output or answer"),
        ({"prompt": 5, "response": "b"}, "item 7 has prompt 5"),
        ({"prompt": "a", "response": ""}, "an empty response would train on nothing"),
        ({"prompt": "a", "response": None}, "both must be text"),
        ("text", "item 7 is str; expected a mapping with 'prompt'"),
    ],
)
def test_a_wrong_row_is_named_with_its_number_and_columns(row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        supervised_of(row, 7)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "chosen": "b", "rejected": ""},
        {"prompt": "a", "chosen": ["b"], "rejected": "c"},
        {"prompt": "a", "chosen": "b"},
    ],
)
def test_a_wrong_pair_is_named_with_its_number(row: Any) -> None:
    with pytest.raises(DataError, match=r"(pair|item) 3"):
        pair_of(row, 3)


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_messages_in_a_csv_cell_are_read_as_messages(write: Any, tmp_path: Path) -> None:
    """As pandas writes them (repr), or as JSON."""
    talk = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": 'it\'s "so"'}]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["messages", "note"])
        rows.writerow([write(talk), "[{not a list}]"])
    assert read_rows(tmp_path / "a.csv") == [{"messages": talk, "note": "[{not a list}]"}]


def test_cells_kept_apart_by_tabs_hold_tabs_quotes_commas_and_lines_in_double_quotes(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a, b; it's", "response": "one\ttwo"},
        {"prompt": 'he said "so"', "response": "first\nsecond\r\n\nfourth"},
        {"prompt": "", "response": '"\t"'},
    ]
    with (tmp_path / "a.tsv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["prompt", "response"], delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    assert read_rows(tmp_path / "a.tsv") == rows
    (tmp_path / "A.TSV.gz").write_bytes(gzip.compress((tmp_path / "a.tsv").read_bytes()))
    assert read_rows(tmp_path / "A.TSV.gz") == rows
    assert is_in_files([str(tmp_path / "a.tsv")])
    assert count_rows(tmp_path / "a.tsv") == 3


def test_messages_in_a_cell_are_read_as_messages_between_tabs_too(tmp_path: Path) -> None:
    talk = [{"weight": 0, "role": "user", "content": "why?"}, {"role": "assistant", "content": "a\tb"}]
    with (tmp_path / "a.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["messages"], [json.dumps(talk)]])
    assert read_rows(tmp_path / "a.tsv") == [{"messages": talk}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tsv", "prompt,response\nq,yes\n", "'prompt,response': its cells are kept apart by ',';.*tabs"),
        ("a.csv", "prompt\tresponse\nq\tyes\n", "its cells are kept apart by .*save it with commas"),
        ("a.tsv", "prompt\tresponse\nq\toh\tyes\n", "line 2: 3 cells, .*texts that hold tabs into double"),
        ("a.tsv", 'prompt\tresponse\nq\t"yes\n', "not TSV .*a text in double quotes needs both of them"),
        ("a.tsv", "prompt\tprompt\na\tb\n", "two columns called 'prompt'"),
        ("a.tsv", "prompt\tresponse\n", "holds no items"),
    ],
)
def test_a_table_with_other_separators_or_open_quotes_is_refused(
    name: str, content: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        read_rows(tmp_path / name)


def test_a_single_column_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"prompt, of people"\nwhy?\n')
    assert read_rows(tmp_path / "a.csv") == [{"prompt, of people": "why?"}]


def test_a_file_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("one\n")
    assert read_rows("~/a.txt") == ["one"]
    assert (
        load_plan({"model": "m", "run": "~/x", "stages": [{"kind": "sft", "data": "d"}]}).run
        == tmp_path / "x"
    )

"""Data larger than memory: of any file no more than a batch of rows is held; packed files; parts of files."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from self_rewarding_lm_pytorch.data.columns import supervised_of
from self_rewarding_lm_pytorch.data.counts import count_rows, number_of_rows
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.data.readers import each_row, file_hashes, is_in_files, read_rows
from self_rewarding_lm_pytorch.data.splits import pieces
from self_rewarding_lm_pytorch.errors import DataError

NUM, LENGTH = 1_000, 12_000
HELD = 7_000_000  # bytes; the rows are 12 MB, a batch of Parquet's 3


def big_rows() -> Iterator[dict[str, str]]:
    for number in range(NUM):
        text = f"{number:08d}" * (LENGTH // 8)
        yield {"prompt": str(number), "response": text}


def write_lines(path: Path, opened: Callable[..., Any] = open) -> Path:
    with opened(path, "wt") as file:
        for row in big_rows():
            file.write(json.dumps(row) + "\n")
    return path


def write_list(path: Path, indent: int | None = 2) -> Path:
    path.write_text(json.dumps(list(big_rows()), indent=indent))
    return path


def write_table(path: Path) -> Path:
    """One row group, as careless writers make them, in pages of 128 rows."""
    pq.write_table(
        pa.Table.from_pylist(list(big_rows())),
        path,
        compression="none",
        use_dictionary=False,
        write_batch_size=128,
    )
    return path


def write_cells(path: Path) -> Path:
    with path.open("w") as file:
        file.write("prompt,response\n")
        for row in big_rows():
            file.write(f"{row['prompt']},{row['response']}\n")
    return path


def save(path: Path) -> Path:
    import datasets

    datasets.Dataset.from_list(list(big_rows())).save_to_disk(str(path))
    return path


WAYS: dict[str, Callable[[Path], Any]] = {
    "JSON Lines": lambda folder: str(write_lines(folder / "a.jsonl")),
    "a JSON list": lambda folder: write_list(folder / "a.json"),
    "a JSON list in one line": lambda folder: write_list(folder / "a.json", indent=None),
    "packed JSON Lines": lambda folder: write_lines(folder / "a.jsonl.gz", gzip.open),
    "CSV": lambda folder: write_cells(folder / "a.csv"),
    "Parquet": lambda folder: write_table(folder / "a.parquet"),
    "a list with a pattern": lambda folder: [str(write_lines(folder / "a.jsonl").with_name("*.jsonl"))],
    "most of a file": lambda folder: {"file": write_lines(folder / "a.jsonl"), "share": 0.999},
    "what datasets saved": lambda folder: save(folder / "set"),
    "a data set of the hub": lambda folder: {"hub": str(save(folder / "set"))},
}


@pytest.mark.parametrize("way", WAYS)
def test_rows_of_a_large_source_are_made_one_at_a_time(way: str, tmp_path: Path) -> None:
    source = WAYS[way](tmp_path)
    list(each_made({"rows": [{"prompt": "a", "response": "b"}]}, supervised_of))  # what is imported once
    next(iter(each_row(source)))
    arrow_before = pa.total_allocated_bytes()
    tracemalloc.start()
    held = count = 0
    for number, turns in enumerate(each_made(source, supervised_of)):
        assert turns[0].content == str(number)
        held, count = max(held, pa.total_allocated_bytes() - arrow_before), number + 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == (NUM if way != "most of a file" else 999)
    assert peak < HELD, f"{peak:,} bytes of Python's"
    assert held < HELD, f"{held:,} bytes of Arrow's"


def test_a_data_set_of_the_hub_is_streamed_without_a_copy_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "set").mkdir()
    rows = [{"prompt": str(n), "response": "yes"} for n in range(20)]
    (tmp_path / "set" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = {"hub": str(tmp_path / "set"), "streaming": True}
    assert read_rows(place) == rows
    assert read_rows({**place, "skip": 3, "limit": 4}) == rows[3:7]
    assert read_rows({**place, "split": "train[5:9]+train[18:]", "skip": 1}) == [*rows[6:9], *rows[18:]]
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    for part in ({"share": 0.5}, {"split": "train[:50%]"}, {"split": "train[-5:]"}):
        with pytest.raises(DataError, match="streamed, whose length nobody knows"):
            read_rows({**place, **part})
    before = file_hashes(place)
    (tmp_path / "set" / "rows.jsonl").write_text(json.dumps(rows[0]))
    assert list(before.values()) != list(file_hashes(place).values())


@pytest.mark.parametrize(("ending", "opened"), [("gz", gzip.open), ("bz2", bz2.open), ("xz", lzma.open)])
def test_packed_files_are_read_as_what_they_hold(ending: str, opened: Any, tmp_path: Path) -> None:
    contents = {
        "jsonl": '{"prompt": "a"}\n{"prompt": "b"}\n',
        "json": '[{"prompt": "a"}, {"prompt": "b"}]',
        "csv": "prompt\na\nb\n",
    }
    for kind, content in contents.items():
        path = tmp_path / f"rows.{kind}.{ending}"
        with opened(path, "wt") as file:
            file.write(content)
        assert read_rows(path) == [{"prompt": "a"}, {"prompt": "b"}]
        assert is_in_files([str(path)])
    with opened(tmp_path / f"rows.txt.{ending}", "wt") as file:
        file.write("a\nb\n")
    assert read_rows(tmp_path / f"rows.txt.{ending}") == ["a", "b"]


def test_a_pattern_names_files_in_order_beside_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("b", "a", "c"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(json.dumps({"prompt": name}) + "\n")
    (tmp_path / "data" / "notes.md").write_text("no data")
    monkeypatch.chdir(tmp_path / "data")
    rows = [{"prompt": name} for name in "abc"]
    assert read_rows("data/*.jsonl", base=tmp_path) == rows
    assert read_rows({"file": "data/?.jsonl", "limit": 2}, base=tmp_path) == rows[:2]
    assert read_rows(["data/*.jsonl", "data/a.jsonl"], base=tmp_path) == [*rows, rows[0]]
    assert read_rows("*.jsonl") == rows, "or in the working directory"
    assert list(file_hashes("data/*.jsonl", base=tmp_path)) == [
        "data/a.jsonl",
        "data/b.jsonl",
        "data/c.jsonl",
    ]
    assert count_rows("data/*.jsonl", base=tmp_path) == 3
    (tmp_path / "data" / "b.jsonl").write_text('{"prompt": ""}\n')
    with pytest.raises(DataError, match=r"data/b\.jsonl, its item 0: prompt 1 is ''"):
        from self_rewarding_lm_pytorch.data.columns import prompt_of

        list(each_made("data/*.jsonl", prompt_of, base=tmp_path))


def test_rows_are_counted_where_that_is_cheap(tmp_path: Path) -> None:
    assert count_rows(write_table(tmp_path / "a.parquet")) == NUM
    assert count_rows({"file": tmp_path / "a.parquet", "share": 0.25}) == NUM // 4
    (tmp_path / "a.jsonl").write_text("{}\n{}\n")
    assert count_rows([tmp_path / "a.jsonl", tmp_path / "a.parquet"]) == NUM + 2
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("{}\n{}\n{}\n")
    assert count_rows(tmp_path / "b.jsonl.gz") is None
    assert number_of_rows(tmp_path / "b.jsonl.gz") == 3
    assert count_rows({"hub": "a/b"}) is None
    assert count_rows(save(tmp_path / "set")) == NUM


@pytest.mark.parametrize("total", [1, 7, 10, 99, 200])
@pytest.mark.parametrize(
    "split",
    ["a", "a[:10%]", "a[95%:]", "a[33%:67%]", "a[-5%:]", "a[2:]", "a[:3]", "a[-4:]", "a[500:]", "a[:-1]"],
)
def test_slices_are_those_of_the_library_datasets(split: str, total: int) -> None:
    from datasets import ReadInstruction

    if split == "a[-5%:]" and total <= 10:
        return  # datasets rounds no row at the end to all of them
    (piece,) = pieces(split)
    (known,) = ReadInstruction.from_spec(split).to_absolute({"a": total})
    wanted = range(total)[known.from_ : known.to]
    assert list(range(total)[piece.of(total)]) == list(wanted)


def test_one_file_can_be_trained_on_and_held_out_without_overlap(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": str(n)} for n in range(37)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = read_rows({"file": str(path), "split": "train[:95%]"})
    held_out = read_rows(f"file:{path}#split=train[95%:]")
    assert train + held_out == rows
    assert len(held_out) == 2
    with pytest.raises(DataError, match="asks for split 'test', but a file is one split, train"):
        read_rows({"file": str(path), "split": "test"})
    with pytest.raises(DataError, match="give a list of sources"):
        read_rows({"file": str(path), "split": "train[:5]+train[9:]"})


def test_parts_of_the_splits_of_a_saved_folder_are_joined(tmp_path: Path) -> None:
    import datasets

    made = {
        name: datasets.Dataset.from_list([{"prompt": f"{name}{n}"} for n in range(10)])
        for name in ("train", "test")
    }
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "set"))
    rows = read_rows({"file": str(tmp_path / "set"), "split": "train[:20%]+test[-1:]"})
    assert [row["prompt"] for row in rows] == ["train0", "train1", "test9"]
    assert read_rows(f"file:{tmp_path / 'set'}#split=train[:20%]+test[-1:]") == rows
    assert count_rows({"file": str(tmp_path / "set"), "split": "train[:20%]+test", "skip": 1}) == 11

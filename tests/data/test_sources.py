"""Data sources said in full: the hub, saved folders, rows chosen by number and columns by name."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.data.columns import supervised_of
from self_rewarding_lm_pytorch.data.readers import file_hashes, is_in_files, read_rows
from self_rewarding_lm_pytorch.data.sources import DataSource, described
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.plans.scaling import scaled_source

ROWS = [{"prompt": f"q{i}", "response": f"a{i}"} for i in range(10)]


def written(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def saved(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    """What `datasets` itself writes: one data set, or several splits."""
    import datasets

    made = {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
    (made["only"] if set(made) == {"only"} else datasets.DatasetDict(made)).save_to_disk(str(folder))
    return folder


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads this when it is imported, or where it keeps it."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


# what datasets saved


def test_a_folder_that_datasets_saved_is_read_like_a_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", only=ROWS)
    assert read_rows(folder) == read_rows(str(folder)) == read_rows({"file": str(folder)}) == ROWS
    assert read_rows({"hub": str(folder)}) == ROWS
    assert read_rows("set", base=tmp_path) == ROWS, "beside the plan"
    assert is_in_files("set")


def test_a_split_of_a_saved_folder_is_named_and_a_wrong_one_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", train=ROWS[:3], test=ROWS[3:])
    assert read_rows(str(folder)) == ROWS[:3], "train unless another is named"
    assert read_rows({"file": folder, "split": "test"}) == ROWS[3:]
    assert read_rows(f"hub:{folder}#split=test&limit=2") == ROWS[3:5]
    with pytest.raises(DataError, match="has no split 'valid'; it has train, test: name one, as split: NAME"):
        read_rows({"file": folder, "split": "valid"})


def test_a_folder_of_data_files_is_read_through_hub_and_refused_as_a_file(tmp_path: Path) -> None:
    written(tmp_path)
    assert read_rows({"hub": str(tmp_path)}) == ROWS
    with pytest.raises(DataError, match=r"is a folder, but none that `datasets` saved.*hub: "):
        read_rows(str(tmp_path))


def test_a_saved_folder_that_is_broken_is_said(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", only=ROWS)
    for file in folder.glob("*.arrow"):
        file.write_bytes(b"no arrow")
    with pytest.raises(DataError, match="cannot be read as a data set that `datasets` saved"):
        read_rows(folder)


def test_a_data_set_that_cannot_be_had_is_named_with_what_to_do() -> None:
    with pytest.raises(
        DataError, match=r"'nobody/nothing' \(split 'train', config None\) cannot be had: \w+"
    ):
        read_rows("hub:nobody/nothing")


# which rows, which columns


@given(
    total=st.integers(1, 40),
    skip=st.integers(0, 45),
    limit=st.none() | st.integers(1, 45),
    share=st.integers(1, 1000).map(lambda n: n / 1000),
)
def test_skip_limit_and_share_take_what_they_say(
    total: int, skip: int, limit: int | None, share: float
) -> None:
    picked = list(DataSource(file="x", skip=skip, limit=limit, share=share).picked(total))
    left = list(range(skip, total))
    exact = math.ceil(Fraction(str(share)) * len(left))
    wanted = min(exact, len(left) if limit is None else limit)
    assert picked == left[:wanted]
    assert bool(picked) == (skip < total), "a share is never none of something"


def test_rows_are_chosen_of_files_lists_of_files_and_items_in_memory(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert read_rows({"file": str(path), "skip": 2, "limit": 3}) == ROWS[2:5]
    assert read_rows({"file": [str(path), path], "skip": 8, "limit": 4}) == [*ROWS[8:], *ROWS[:2]]
    assert read_rows({"rows": ROWS, "share": 0.25}) == ROWS[:3]
    assert read_rows([{"file": str(path), "limit": 1}, str(path)]) == [ROWS[0], *ROWS]
    with pytest.raises(DataError, match="leaves no items, so there is nothing"):
        read_rows({"file": str(path), "skip": 10})


def test_columns_are_called_as_the_library_calls_them(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question_text": "why?", "reply": "so", "prompt": "other"}])
    (row,) = read_rows({"file": str(path), "prompt": "question_text", "response": "reply"})
    assert [turn.content for turn in supervised_of(row, 0)] == ["why?", "so"]
    with pytest.raises(DataError, match="item 0 has no column 'query'; it has prompt, question_text, reply"):
        read_rows({"file": str(path), "prompt": "query"})
    with pytest.raises(DataError, match="item 0 is str and has no columns"):
        read_rows({"rows": ["text"], "prompt": "query"})


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_the_first_turn_of_a_conversation_is_taken_where_it_is_asked_for() -> None:
    talk = [turn("user", "why?"), turn("assistant", "so"), turn("user", "and?"), turn("assistant", "then")]
    rows = [{"messages": talk}, {"messages": [turn("system", "be kind"), *talk]}]
    (kept,) = read_rows(
        {"rows": [{"messages": {"from": ["human", "gpt"], "value": ["why?", "so"]}}], "turns": "first"}
    )
    assert kept == {"prompt": "why?", "response": "so"}, "as datasets gives a sequence of records"
    for source in ({"messages": "messages"}, {}):
        found = read_rows({"rows": rows, "turns": "first", **source})
        assert found == [
            {"prompt": "why?", "response": "so"},
            {"prompt": "be kind\n\nwhy?", "response": "so"},
        ]
    (row, _) = read_rows({"rows": rows, "messages": "messages"})
    assert len(supervised_of(row, 0)) == 4, "all of it, unless a plan says otherwise"


@pytest.mark.parametrize(
    "talk",
    ["text", [], [turn("user", "why?")], [turn("assistant", "so")], [turn("user", None)], ["why?", "so"]],
)
def test_what_is_no_conversation_is_said(talk: Any) -> None:
    with pytest.raises(DataError, match="item 0 holds no conversation that begins with"):
        read_rows({"rows": [{"talk": talk}], "messages": "talk", "turns": "first"})


# how sources are said


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub:", "names nothing; write hub:NAME"),
        ("hub:a/b#train", "unknown key 'train'; known: chosen, config"),
        ("hub:a/b#splt=x", "unknown key 'splt'.*Did you mean 'split'"),
        ("hub:a/b#limit=none", "limit .*valid integer"),
        ({"hub": "a/b", "file": "c"}, "needs one of .*but has file and hub"),
        ({"file": "c", "limit": 0}, "limit .*greater than or equal to 1"),
        ({"file": "c", "share": 0}, "share .*greater than 0"),
        ({"file": "c", "messages": "m", "prompt": "p"}, "messages holds both"),
        ({"file": "c", "input": "i"}, "input stands below the prompt; name that column too"),
        ({"file": "c", "turns": "last"}, "turns .*'all' or 'first'"),
        ({"file": "c", "streaming": True}, "streaming is of data sets named by hub"),
        ({"file": "c", "split": "train[5]"}, r"split 'train\[5\]' is not read: write a name"),
        ({"file": "c", "split": "train[:150%]"}, "is not read"),
        ({"file": "c", "split": "train[10:50%]"}, "is not read"),
    ],
)
def test_a_source_said_wrongly_is_refused_before_anything_is_read(source: Any, message: str) -> None:
    for look in (described, is_in_files, read_rows):
        with pytest.raises(DataError, match=message):
            look(source)


def test_a_hub_name_says_split_configuration_and_revision() -> None:
    wanted = described("hub:a/b#split=train_sft&config=en&revision=ac6e&limit=50")
    assert wanted is not None
    assert (wanted.hub, wanted.split, wanted.config, wanted.revision, wanted.limit) == (
        "a/b",
        "train_sft",
        "en",
        "ac6e",
        50,
    )


def test_sources_that_can_be_read_again_are_told_from_items_in_memory() -> None:
    assert is_in_files({"hub": "a/b"})
    assert is_in_files(["hub:a/b", "c.jsonl", {"file": "d.csv"}])
    assert not is_in_files({"rows": ROWS})
    assert not is_in_files([{"file": "picture.png", "prompt_text": "what is this?"}]), "a row of its own"
    assert not is_in_files({"made_by": "stage"})
    assert not is_in_files(["file: what is a file?", "hub: what is a hub?"]), "prompts"


def test_a_source_is_the_same_written_as_a_mapping_and_as_text(tmp_path: Path) -> None:
    path = written(tmp_path)
    for said in (
        {"file": str(path), "skip": 2, "limit": 3},
        {"file": path, "share": 0.3, "response": "prompt"},
        {"hub": str(tmp_path), "split": "train", "limit": 1},
    ):
        wanted = described(said)
        assert wanted is not None
        text = wanted.as_text()
        assert text is not None
        assert read_rows(text) == read_rows(said) == read_rows([text])
        assert is_in_files(text)
        assert file_hashes(text) == file_hashes(said)
    spoken = described({"open_assistant": "a.jsonl", "lang": None})
    assert spoken is not None
    assert described(spoken.as_text()) == spoken, "any language stays any"
    odd = described({"file": "a&b.jsonl", "prompt": "a = b & c#"})
    assert odd is not None
    assert described(odd.as_text()) == odd, "whatever a column is called"
    for unwritable in ({"rows": ROWS}, {"file": ["a.txt"]}, {"file": "a#b.txt"}):
        wanted = described(unwritable)
        assert wanted is not None
        assert wanted.as_text() is None


def test_a_scaled_source_is_the_same_part_of_the_same_columns_in_small(tmp_path: Path) -> None:
    path = written(
        tmp_path, [{"messages": [turn("user", f"q{n}"), turn("assistant", "a")]} for n in range(40)]
    )
    source = {"file": str(path), "split": "train[50%:]", "messages": "messages", "turns": "first"}
    found = read_rows(scaled_source(source, 0.25))
    assert [row["prompt"] for row in found] == [f"q{n}" for n in range(20, 25)]
    pattern = scaled_source(str(tmp_path / "*.jsonl"), 0.1)
    assert len(read_rows(pattern)) == 4


# hashes


def test_hashes_are_of_what_is_read_whatever_says_it(tmp_path: Path) -> None:
    path = written(tmp_path)
    plain = file_hashes("rows.jsonl", base=tmp_path)
    assert file_hashes({"file": "rows.jsonl", "limit": 1}, base=tmp_path) == plain
    assert file_hashes([{"open_assistant": "rows.jsonl"}], base=tmp_path) == plain
    assert file_hashes({"rows": ROWS}) == {}
    folder = saved(tmp_path / "set", only=ROWS)
    before = file_hashes("set", base=tmp_path)
    assert list(before) == ["set"]
    assert file_hashes("set", base=tmp_path) == before
    other = saved(tmp_path / "other", only=ROWS[:9])
    assert file_hashes({"file": other}) != {str(other): before["set"]}
    by_hub = file_hashes({"hub": str(folder)})
    assert list(by_hub) == [f"hub:{folder}#split=train"]
    assert path.exists()


# Open Assistant


def message(name: str, parent: str | None, text: str, rank: int | None = None) -> dict[str, Any]:
    role = "prompter" if parent is None else "assistant"
    return {
        "message_id": name,
        "parent_id": parent,
        "message_tree_id": parent or name,
        "text": text,
        "role": role,
        "lang": "en",
        "rank": rank,
        "deleted": False,
    }


def test_the_best_reply_to_each_first_turn_is_taken_of_a_file_and_of_a_split(tmp_path: Path) -> None:
    rows = []
    for i in range(3):
        rows += [message(f"p{i}", None, f"why {i}?")]
        rows += [message(f"p{i}-{rank}", f"p{i}", f"answer {rank}", rank) for rank in (1, 0)]
    path = written(tmp_path, rows)
    best = [{"prompt": f"why {i}?", "response": "answer 0"} for i in range(3)]
    assert read_rows({"open_assistant": str(path)}) == best
    assert read_rows({"open_assistant": str(path), "skip": 1, "limit": 1}) == best[1:2]
    assert read_rows(f"open_assistant:{path}#limit=2") == best[:2]
    folder = saved(tmp_path / "set", train=rows[:3], validation=rows[3:])
    assert read_rows(f"open_assistant:hub:{folder}#split=validation") == best[1:]
    assert read_rows({"open_assistant": f"hub:{folder}#split=validation", "limit": 1}) == best[1:2]
    assert list(file_hashes(f"open_assistant:hub:{folder}")) == [f"hub:{folder}#split=train"]

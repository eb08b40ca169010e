"""`preview`: what a newcomer sees of data before anything is trained on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from self_rewarding_lm_pytorch.cli.main import app
from self_rewarding_lm_pytorch.errors import ConfigError, DataError


def told(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["preview", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def written(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


TALK = [("user", "why?"), ("assistant", "so"), ("user", "and?"), ("assistant", "then")]
MESSAGES = [{"role": role, "content": text} for role, text in TALK]


def test_a_file_is_shown_with_its_form_its_uses_and_its_first_rows(tmp_path: Path) -> None:
    path = written(
        tmp_path / "seed.jsonl",
        *[{"instruction": f"sort {n}", "input": "b", "output": "a"} for n in range(5)],
    )
    output = told(path, "--num", "2")
    assert f"{path}: alpaca; prompt = instruction + input, response = output; 5 rows" in output
    assert "as supervised: data of sft, spin" in output
    assert "not as pairs: item 0 has the columns" in output
    assert "row 0\n  [user]\n    sort 0\n    b\n  [assistant, trained on]\n    a\n" in output
    assert "sort 1" in output
    assert "sort 2" not in output


def test_of_a_conversation_every_answer_is_marked_as_trained_on(tmp_path: Path) -> None:
    (found,) = json.loads(told(written(tmp_path / "a.jsonl", {"messages": MESSAGES}), "--json"))
    assert (found["rows"], found["shown_as"]) == (1, "supervised")
    assert found["uses"]["supervised"]["form"] == "OpenAI messages"
    assert "refused" in found["uses"]["pairs"]
    turns = found["examples"][0]["messages"]
    assert [turn["is_trained_on"] for turn in turns] == [False, True, False, True]
    (asked,) = json.loads(told(str(tmp_path / "a.jsonl"), "--json", "--as", "prompts"))
    assert [turn["content"] for turn in asked["examples"][0]["messages"]] == ["why?", "so", "and?"]


def test_answers_of_weight_0_are_not_marked_as_trained_on(tmp_path: Path) -> None:
    kept = [{**message, "weight": 0} if message["content"] == "so" else message for message in MESSAGES]
    (found,) = json.loads(told(written(tmp_path / "a.jsonl", {"messages": kept}), "--json"))
    turns = found["examples"][0]["messages"]
    assert [turn["is_trained_on"] for turn in turns] == [False, False, False, True]


def test_pairs_are_shown_with_both_answers_and_a_row_that_is_refused_says_why(tmp_path: Path) -> None:
    good = {"prompt": "why?", "chosen": "so", "rejected": "no"}
    output = told(written(tmp_path / "a.jsonl", good, {**good, "rejected": ""}, {**good, "question": "a"}))
    assert "[chosen]\n    so\n  [rejected]\n    no\n" in output
    assert "row 2\n  refused: item 2 has a column 'question', but the rows before it have prompt" in output
    assert "row 1\n  refused: pair 1 must hold prompt, chosen and rejected" in output


def test_splits_of_a_saved_folder_are_listed_and_one_can_be_looked_at(tmp_path: Path) -> None:
    import datasets

    made = {name: datasets.Dataset.from_list([{"prompt": name}]) for name in ("train", "test")}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "set"))
    assert "splits: train, test" in told(str(tmp_path / "set"))
    output = told(str(tmp_path / "set"), "--split", "test")
    assert "split test: prompts; 1 row" in output
    assert "  [user]\n    test\n" in output


def test_several_files_are_shown_and_data_of_no_use_end_with_an_error(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a.jsonl", "why?"), written(tmp_path / "b.jsonl", {"text": "a"})
    assert "text, a prompt each" in told(one)
    output = told(str(tmp_path / "*.jsonl"), code=1)
    assert f"{one}: text, a prompt each" in output
    assert f"{other}: of no form that is known" in output
    assert "not as supervised: item 0 has the columns ['text'], none of them" in output


def test_what_is_not_there_or_asked_for_wrongly_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no data file"):
        told(str(tmp_path / "gone.jsonl"))
    path = written(tmp_path / "a.jsonl", "why?")
    with pytest.raises(ConfigError, match="--as 'answers' is none of prompts, supervised, pairs"):
        told(path, "--as", "answers")
    with pytest.raises(DataError, match="a file is one split"):
        told(path, "--split", "test")

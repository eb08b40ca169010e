"""Pairs and judgments leave as JSON Lines, and come back as the data of a dpo stage."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.data.columns import pair_of
from self_rewarding_lm_pytorch.data.export import EMPTY, NO_TEXT, Exported, export_run
from self_rewarding_lm_pytorch.data.item_file import pairs_in
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PairExample, PreferencePair, Vote
from self_rewarding_lm_pytorch.stages.chat_settings import ChatSettings
from self_rewarding_lm_pytorch.text import HuggingFaceCodec
from tests.chat.families import FAMILIES, tokenizer
from tests.helpers import Table, byte_codec
from tests.stages.worlds import ITEMS, QUIET, plan


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """One stage with two shards, one of an unscored candidate."""
    store = ShardStore(tmp_path / "run" / "stages" / "02-own")
    vote, none = Vote(0, "Score: 4", 4.0, "parsed"), Vote(0, "?", None, "unparsed", "no_score")
    for shard, text in enumerate(("naïve\nansw\u2028er", "so")):
        store.write(Candidate, shard, [Candidate(shard, 0, 0, (5, 0), text, "eos", 1, "own")], {})
        judged = Judgment(shard, 0, 0, 4.0, (vote,)) if shard == 0 else Judgment(shard, 0, 0, None, (none,))
        store.write(Judgment, shard, [judged], {})
        pair = PreferencePair(shard, 0, "why?", text, "no", (1,), (2,), (3,), 0, 1, 4.0, 1.0)
        store.write(PreferencePair, shard, [pair], {})
    (tmp_path / "run" / "stages" / "01-seed").mkdir()
    return tmp_path / "run"


def test_each_stage_gives_its_pairs_and_its_judgments(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pairs, judgments = out / "02-own-pairs.jsonl", out / "02-own-judgments.jsonl"
    assert export_run(stored, out) == [Exported(pairs, 2), Exported(judgments, 2)]
    assert lines(pairs)[0] == {
        "prompt": "why?",
        "chosen": "naïve\nansw\u2028er",
        "rejected": "no",
        "chosen_score": 4.0,
        "rejected_score": 1.0,
    }
    first, second = lines(judgments)
    assert first["response"] == "naïve\nansw\u2028er"
    assert first["votes"] == [{"text": "Score: 4", "score": 4.0, "status": "parsed"}]
    assert (second["prompt_index"], second["score"]) == (1, None), "absent is not zero"


def test_pairs_that_a_data_file_cannot_hold_are_left_out_and_counted(stored: Path, tmp_path: Path) -> None:
    spun = ShardStore(stored / "stages" / "03-spun")
    texts = [("", "a", "b"), ("q", "", "b"), ("q", "a", ""), ("q", "a", "b")]
    spun.write(
        PreferencePair, 0, [PreferencePair(n, 0, *t, (1,), (2,), (3,)) for n, t in enumerate(texts)], {}
    )
    only = ShardStore(stored / "stages" / "04-ids")
    only.write(PreferencePair, 0, [PreferencePair(0, 0, "", "a", "b", (1,), (2,), (3,))], {})
    out = tmp_path / "out"
    *_, spun_pairs, only_pairs = export_run(stored, out)
    assert spun_pairs == Exported(out / "03-spun-pairs.jsonl", 1, {NO_TEXT: 1, EMPTY: 2})
    assert only_pairs == Exported(out / "04-ids-pairs.jsonl", 0, {NO_TEXT: 1})
    assert not only_pairs.path.exists()


def test_pairs_of_conversations_leave_as_messages_and_train_on_the_same_tokens(tmp_path: Path) -> None:
    """As a text, `User: ... Assistant: ...` would be one user's message."""
    turns = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    asked = [{"messages": [*turns, {"role": "user", "content": f"{n}?"}]} for n in range(4)]
    settings = plan(tmp_path / "first", "text", chat={"template": "transcript", "system": "Hm."})
    settings["stages"][0]["prompts"] = [*asked, "alone?"]
    run(settings, reporter=QUIET)
    pairs, _ = export_run(tmp_path / "first", tmp_path / "out")
    rows = lines(pairs.path)
    stored = ShardStore(tmp_path / "first" / "stages" / "01-text").read_all(PreferencePair)
    kept = [pair for pair in stored if pair.chosen and pair.rejected]
    assert len(rows) == len(kept) == pairs.rows > 2
    assert all(row["prompt"][0] == {"role": "system", "content": "Hm."} for row in rows)
    codec = ChatSettings(template="transcript").applied(byte_codec(), None)
    for number, (row, pair) in enumerate(zip(rows, kept, strict=True)):
        prompt, chosen, _ = pair_of(row, number)
        assert codec.prompt_ids(prompt) == pair.prompt_ids
        assert chosen == pair.chosen


@pytest.mark.parametrize("template", [None, "transcript"])
@pytest.mark.parametrize("system", ["Hm.", ""])
def test_what_the_plan_has_the_system_say_stands_in_the_pairs_of_texts(
    tmp_path: Path, system: str, template: str | None
) -> None:
    """A dpo plan that says nothing of chat but the template trains on the same prompts as the run did."""
    run(plan(tmp_path / "first", "text", chat={"template": template, "system": system}), reporter=QUIET)
    pairs, _ = export_run(tmp_path / "first", tmp_path / "out")
    again = plan(tmp_path / "second", "given", chat={"template": template})
    for row, kept, read in read_again(again, pairs.path, stored_pairs(tmp_path / "first", "text")):
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
        assert prompt_of(read) == kept.prompt_ids


def test_a_conversation_keeps_what_its_own_system_says(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Own."}, {"role": "user", "content": "q?"}]
    settings = plan(tmp_path / "run", "text", chat={"template": "transcript", "system": "Hm."})
    settings["stages"][0]["prompts"] = [{"messages": own}, "alone?", {"messages": own}]
    run(settings, reporter=QUIET)
    pairs, _ = export_run(tmp_path / "run", tmp_path / "out")
    alone = [{"role": "system", "content": "Hm."}, {"role": "user", "content": "alone?"}]
    prompts = [row["prompt"] for row in lines(pairs.path)]
    assert own in prompts
    assert all(prompt in (own, alone) for prompt in prompts)


def test_a_plan_that_cannot_be_read_is_told_with_what_to_do(stored: Path, tmp_path: Path) -> None:
    for text in ("chat: [", "- chat"):
        (stored / "plan.yaml").write_text(text)
        with pytest.raises(DataError, match=r"(?s)plan\.yaml cannot be read.*put it back"):
            export_run(stored, tmp_path / "out")


TALKS: list[dict[str, Any]] = [
    {"prompt": "why?", "response": "because"},
    {"prompt": " a blank, <|im_end|> and </s>", "response": " so \n"},
    {"instruction": "é漢字🙂", "input": "below", "output": "<think>x</think> y"},
]
TOLD = {"role": "system", "content": "Be brief."}
TURNS: list[dict[str, str]] = [
    {"role": "user", "content": "a?"},
    {"role": "assistant", "content": "<think>hm</think>b"},
    {"role": "user", "content": "c?"},
    {"role": "assistant", "content": "d</s>"},
]


@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt2"])
def test_a_chat_models_self_play_comes_back_as_the_tokens_it_was_trained_on(
    tmp_path: Path, family: str, system: str | None
) -> None:
    """Behind its template a prompt's own text is not to be had from the ids."""
    data = [*TALKS, {"messages": TURNS}, {"messages": [TOLD, *TURNS]}]
    model = {"model": answering(family, "It is 4."), "tokenizer": tokenizer(family)}
    chat = {} if system is None else {"chat": {"system": system}}
    settings = plan(tmp_path / "first", "play", **model, **chat)
    files = [written(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((data[:2], data[2:3], data[3:]))]
    settings["stages"][0] |= {"data": files, "opponent": {"temperature": 0.0, "max_new_tokens": 30}}
    run(settings, reporter=QUIET)
    stored = stored_pairs(tmp_path / "first", "play")
    (pairs,) = export_run(tmp_path / "first", tmp_path / "out")
    assert (pairs.rows, pairs.left_out) == (len(stored), {})
    assert len(stored) == 2 * len(data), "of both iterations"
    again = plan(tmp_path / "second", "given", **model)
    for row, kept, read in read_again(again, pairs.path, stored):
        assert row["rejected"][-1]["content"] == "It is 4."
        assert prompt_of(read) == kept.prompt_ids
        for side, ids in ((read.chosen, kept.chosen_ids), (read.rejected, kept.rejected_ids)):
            assert tuple(side.ids[side.is_target].tolist()) == ids
    asked = {pair.prompt_index: pair.prompt for pair in stored}
    assert asked[1] == TALKS[1]["prompt"]
    assert asked[3].endswith("User: c?")


@pytest.mark.parametrize("kind", ["a list", "rows", "datasets"])
def test_self_play_of_texts_alone_leaves_as_texts(tmp_path: Path, kind: str) -> None:
    import datasets

    rows = TALKS[:2]
    kinds = {"a list": rows, "rows": {"rows": rows, "limit": 2}, "datasets": datasets.Dataset.from_list(rows)}
    model = {"model": answering("llama3", "It is 4."), "tokenizer": tokenizer("llama3")}
    settings = plan(tmp_path / "run", "play", **model)
    settings["stages"][0] |= {"data": kinds[kind], "opponent": {"temperature": 0.0, "max_new_tokens": 30}}
    run(settings, reporter=QUIET)
    (pairs,) = export_run(tmp_path / "run", tmp_path / "out")
    first = lines(pairs.path)[0]
    assert (first["prompt"], first["chosen"], first["rejected"]) == ("why?", "because", "It is 4.")


def test_data_that_make_their_rows_anew_are_not_asked_twice_and_their_prompts_are_not_known(
    tmp_path: Path,
) -> None:
    class Made:
        asked = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, place: int) -> dict[str, str]:
            self.asked += 1
            return {"prompt": f"q{place}, {self.asked}?", "response": "yes"}

    made = Made()
    settings = plan(tmp_path / "run", "play", chat={"template": "transcript"})
    settings["stages"][0]["data"] = made
    run(settings, reporter=QUIET)
    assert made.asked == 3
    (pairs,) = export_run(tmp_path / "run", tmp_path / "out")
    assert pairs == Exported(pairs.path, 0, {NO_TEXT: 6})


def test_items_that_are_left_out_do_not_move_the_prompts_of_those_behind_them(tmp_path: Path) -> None:
    long = {"prompt": "long?", "response": "x" * 60}
    settings = plan(tmp_path / "run", "play", chat={"template": "transcript"})
    settings["stages"][0] |= {"data": [ITEMS[0], long, *ITEMS[1:]], "max_item_tokens": 50}
    run(settings, reporter=QUIET)
    for pair in stored_pairs(tmp_path / "run", "play"):
        assert pair.prompt == ITEMS[pair.prompt_index]["prompt"]
        assert pair.chosen == ITEMS[pair.prompt_index]["response"]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([*ITEMS[:2], {"prompt": "q?", "response": 5}], "response 5"),
        ([*ITEMS[:2], {"prompt": "other?", "response": "yes"}], "item 2 is not among them"),
    ],
)
def test_self_play_with_data_that_have_changed_goes_on_and_says_what_the_export_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], why: str
) -> None:
    """The check before the run has made the items, and keeps them for the stage."""
    settings = plan(tmp_path / "run", "seed", "play", chat={"template": "transcript"})
    settings["stages"][1]["data"] = written(tmp_path / "data.jsonl", ITEMS)
    run(settings, after_stage=lambda *_: written(tmp_path / "data.jsonl", rows))
    said = " ".join(capsys.readouterr().out.split())
    assert "the text of 4 of 6 prompts is not stored" in said
    assert why in said
    (pairs,) = export_run(tmp_path / "run", tmp_path / "out")
    stored = stored_pairs(tmp_path / "run", "play", stage=2)
    assert pairs.left_out[NO_TEXT] == sum(pair.prompt_index >= 2 for pair in stored)
    assert {row["prompt"] for row in lines(pairs.path)} <= {"q0?", "q1?"}


def test_self_play_without_a_template_leaves_with_what_the_system_says_in_the_prompt(tmp_path: Path) -> None:
    run(plan(tmp_path / "first", "play", chat={"system": "Hm."}), reporter=QUIET)
    (pairs,) = export_run(tmp_path / "first", tmp_path / "out")
    stored = stored_pairs(tmp_path / "first", "play")
    for row, kept, read in read_again(plan(tmp_path / "second", "given"), pairs.path, stored):
        assert row["prompt"].startswith("Hm.\n\nq")
        assert prompt_of(read) == kept.prompt_ids


def test_self_play_of_token_ids_leaves_with_what_they_say(tmp_path: Path) -> None:
    """There is no other text; what the plan has the system say stands in none of them."""
    settings = plan(tmp_path / "run", "play", chat={"system": "Hm."})
    settings["stages"][0]["data"] = [(torch.tensor([*b"why?", *b"so", 0]), 4)] * 3
    run(settings, reporter=QUIET)
    (pairs,) = export_run(tmp_path / "run", tmp_path / "out")
    assert all(row["prompt"] == "why?" and row["chosen"] == "so" for row in lines(pairs.path))
    assert pairs.rows > 0


def answering(family: str, answer: str) -> Table:
    """A model that answers so whatever it is asked."""
    codec = HuggingFaceCodec(tokenizer(family))
    ids = [codec.prompt_ids("x")[-1], *codec.response_ids("x", answer)]
    assert len(set(ids)) == len(ids), "each token is followed by one"
    logits = torch.zeros(len(codec.tokenizer), len(codec.tokenizer))
    for token, following in pairwise(ids):
        logits[token, following] = 60
    return Table(logits)


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def stored_pairs(folder: Path, name: str, stage: int = 1) -> list[PreferencePair]:
    return ShardStore(folder / "stages" / f"{stage:02d}-{name}").read_all(PreferencePair)


def read_again(
    settings: dict[str, Any], path: Path, stored: list[PreferencePair]
) -> list[tuple[dict[str, Any], PreferencePair, PairExample]]:
    """Exported rows, the pairs they came from, and what a dpo stage makes of them."""
    settings["stages"][0]["data"] = str(path)
    run(settings, reporter=QUIET)
    read = list(pairs_in(settings["run"] / "stages" / "01-given" / "items" / "data.arrow"))
    kept = [pair for pair in stored if pair.chosen and pair.rejected]
    assert read, "something was exported"
    return list(zip(lines(path), kept, read, strict=True))


def prompt_of(pair: PairExample) -> tuple[int, ...]:
    return tuple(pair.chosen.ids[~pair.chosen.is_target].tolist())


def test_a_folder_without_stages_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match="holds no stages to export"):
            export_run(folder, tmp_path / "out")


def test_exported_pairs_train_a_dpo_stage_and_are_read_by_datasets(tmp_path: Path) -> None:
    import datasets

    run(plan(tmp_path / "first", "text"), reporter=QUIET)
    exported, _ = export_run(tmp_path / "first", tmp_path / "out")
    path, count = exported.path, exported.rows
    table = datasets.Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache"))
    assert {"prompt", "chosen", "rejected"} <= set(table.column_names)
    settings = plan(tmp_path / "second", "given")
    rows = [row for row in lines(path) if row["chosen"] and row["rejected"]]
    kept = tmp_path / "kept.jsonl"
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings["stages"][0]["data"] = str(kept)
    summary = run(settings, reporter=QUIET)
    assert summary["stages"][0]["num_pairs"] == len(rows) == table.num_rows == count
    assert 0 < summary["stages"][0]["metrics"]["preference_loss"] < 1

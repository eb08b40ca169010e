"""Pairs and judgments leave as JSON Lines, and come back as the data of a dpo stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.columns import pair_of
from self_rewarding_lm_pytorch.data.export import EMPTY, NO_TEXT, Exported, export_run
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote
from self_rewarding_lm_pytorch.stages.chat_settings import ChatSettings
from tests.helpers import byte_codec
from tests.stages.worlds import QUIET, plan


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
    codec = ChatSettings(template="transcript", system="Hm.").applied(byte_codec(), None)
    for number, (row, pair) in enumerate(zip(rows, kept, strict=True)):
        prompt, chosen, _ = pair_of(row, number)
        assert codec.prompt_ids(prompt) == pair.prompt_ids
        assert chosen == pair.chosen


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

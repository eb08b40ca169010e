"""Pairs and judgments leave as JSON Lines, and come back as the data of a dpo stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.export import export_run
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote
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
    assert export_run(stored, out) == [(pairs, 2), (judgments, 2)]
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


def test_a_folder_without_stages_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match="holds no stages to export"):
            export_run(folder, tmp_path / "out")


def test_exported_pairs_train_a_dpo_stage_and_are_read_by_datasets(tmp_path: Path) -> None:
    import datasets

    run(plan(tmp_path / "first", "text"), reporter=QUIET)
    ((path, count), _) = export_run(tmp_path / "first", tmp_path / "out")
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

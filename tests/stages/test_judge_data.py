"""An sft stage whose model first judges what people judged, and trains on its judgments that agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.data.judged import judged_prompts
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Judgment
from self_rewarding_lm_pytorch.stages.sft import SFTStage
from tests.helpers import Script, byte_codec
from tests.servers import Asked, Reply, chat, serving
from tests.stages.worlds import ITEMS, QUIET, plan, weights, without_seconds, written_summary

TEMPLATE = "judge {{ prompt }} {{ response }}:\x01"
# 40 prompts with a better and a worse response. The judge writes a score from 0 to 5 at random.
RANKED = [{"prompt": f"q{i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(40)]
JUDGE = {"template": TEMPLATE, "votes": 3, "max_new_tokens": 30, "temperature": 1.0, "top_p": None}
HELD_OUT, HELD_OUT_OF_20 = 7, 4  # of q0?, q1?, ...: those whose texts hash below a quarter
VOTES = (40 - HELD_OUT) * 2 * 3
SETTINGS: dict[str, Any] = {"data": RANKED, "judge": JUDGE, "max_share": 0.3}


def script(text: bytes = b"so so\nScore: ?\n") -> Script:
    return Script(text)


def stage_of(
    folder: Path, changes: dict[str, Any] | None = None, *, model: Any = None, **stage: Any
) -> tuple[dict[str, Any], Path]:
    """Runs one sft stage with judge data; its part of the summary and its folder."""
    settings = plan(folder, model=model or script(), tokenizer=byte_codec(), generation={"shard_size": 8})
    training = {"kind": "sft", "name": "M1", "num_steps": 1, "batch_size": 4, "dropout": None, **stage}
    settings["stages"] = [{**training, "judge_data": {**SETTINGS, **(changes or {})}}]
    return run(settings, reporter=QUIET)["stages"][0], folder / "stages" / "01-M1"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_judgments_that_rank_as_people_do_become_examples_and_the_rest_is_counted(tmp_path: Path) -> None:
    stage, folder = stage_of(tmp_path)
    rows, counts = read(folder / "judge-data.jsonl"), json.loads((folder / "judge-data.json").read_text())
    held_out = judged_prompts(folder / "held-out.jsonl")
    assert (counts["prompts"], counts["held_out"], counts["judged"]) == (40, HELD_OUT, 40 - HELD_OUT)
    assert len(held_out) == HELD_OUT
    assert (counts["responses"], counts["votes"], counts["votes_parsed"]) == (VOTES // 3, VOTES, VOTES)
    assert len(rows) == counts["examples"] == counts["votes"] - sum(counts["dropped"].values()) > 10
    assert max(counts["scores"].values()) <= 0.3 * len(rows)
    assert stage["metrics"]["judge_examples"] == len(rows)
    assert stage["metrics"]["judge_held_out"] == HELD_OUT
    assert stage["tokens_generated"] == counts["tokens"] > 0
    judgments = ShardStore(folder / "judge-data").read_all(Judgment)
    means = {(j.prompt_index, j.candidate_index): j.score for j in judgments}
    for row in rows:
        number, place = row["prompt_index"], row["response_index"]
        shown = ("good", "bad")[place]
        assert row["prompt"] == f"judge q{number}? {shown} {number}:\x01"
        assert row["response"] == f"so so\nScore: {row['vote_score']:.0f}"
        other = means[number, 1 - place]
        assert row["vote_score"] > other if place == 0 else row["vote_score"] < other
        assert f"q{number}?" not in {judged.prompt for judged in held_out}


def test_data_and_judgments_are_trained_on_together_and_either_alone(tmp_path: Path) -> None:
    _, folder = stage_of(tmp_path / "both", {"num_prompts": 12}, data=ITEMS)
    parts = sorted(path.name for path in (folder / "items").iterdir())
    assert parts == ["data.arrow", "judge-data.arrow"]
    _, folder = stage_of(tmp_path / "alone", {"num_prompts": 12})
    assert [path.name for path in (folder / "items").iterdir()] == ["judge-data.arrow"]
    with pytest.raises(ConfigError, match="data is missing: give data, judge_data, or both"):
        run({**plan(tmp_path / "none"), "stages": [{"kind": "sft"}]}, reporter=QUIET)


def test_prompts_of_other_training_data_can_be_left_out(tmp_path: Path) -> None:
    without = [{"prompt": f" Q{i}?", "response": "an answer"} for i in range(20)]
    _, folder = stage_of(tmp_path, {"without": without, "held_out": 0.5})
    counts = json.loads((folder / "judge-data.json").read_text())
    assert counts["dropped"]["prompts of other training data"] == 20
    assert counts["held_out"] + counts["judged"] == 20
    held_out = judged_prompts(folder / "held-out.jsonl")
    assert all(int(judged.prompt[1:-1]) >= 20 for judged in held_out)


CALLS: list[str] = []
LIMIT: list[int] = []  # after so many calls of `scores`, the run is cut off


def scores(text: str) -> float | None:
    """Reads scores as the library does, and can be interrupted."""
    CALLS.append(text)
    if LIMIT and len(CALLS) > LIMIT[0]:
        raise KeyboardInterrupt
    return ScoreParser().parse(text).score


def test_a_run_cut_off_while_judging_goes_on_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"judge": {**JUDGE, "parse_reward": scores}}
    CALLS.clear()
    stage_of(tmp_path / "whole", changes, learning_rate=1e-2)
    num_calls = len(CALLS)
    CALLS.clear()
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr("tests.stages.test_judge_data.LIMIT", [num_calls // 2])
        stage_of(tmp_path / "cut", changes, learning_rate=1e-2)
    CALLS.clear()
    stage_of(tmp_path / "cut", changes, learning_rate=1e-2)
    assert 0 < len(CALLS) < num_calls, "stored shards are not judged again"
    for name in ("judge-data.jsonl", "held-out.jsonl", "judge-data.json"):
        files = [tmp_path / of_run / "stages/01-M1" / name for of_run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
    summaries = [without_seconds(written_summary(tmp_path / name)) for name in ("whole", "cut")]
    assert summaries[0] == summaries[1]


def test_training_may_begin_from_other_weights_than_those_that_judged(tmp_path: Path) -> None:
    model = script()
    first = {"kind": "sft", "name": "base", "data": [{"prompt": "a\x01", "response": "so so\nScore: 5\n"}]}
    first |= {"num_steps": 20, "learning_rate": 0.05, "batch_size": 1, "dropout": None}
    second: dict[str, Any] = {"kind": "sft", "name": "M1", "judge_data": SETTINGS, "num_steps": 1}
    second |= {"learning_rate": 0.0, "dropout": None}
    votes, checkpoints = {}, {}
    for name, start in (("initial", "initial"), ("base", "base"), ("own", None)):
        settings = plan(tmp_path / name, model=Script(b"so so\nScore: ?\n"), tokenizer=byte_codec())
        settings["stages"] = [first, {**second, "start_from": start}]
        run(settings, reporter=QUIET)
        folder = tmp_path / name / "stages/02-M1"
        votes[name] = ShardStore(folder / "judge-data").read_all(Judgment)
        checkpoints[name] = weights(tmp_path / name)
    last = "02-M1/checkpoint/model.safetensors"
    initial = torch.equal(model.script, loaded(tmp_path / "initial" / "stages" / last))
    assert initial, "trained, with a rate of 0, from the weights the run began with"
    assert not torch.equal(model.script, loaded(tmp_path / "base" / "stages" / last))
    assert checkpoints["base"] == checkpoints["own"]
    assert votes["initial"] == votes["base"] == votes["own"], "the stage's first weights judged in each"


def test_weights_to_start_from_must_be_those_of_a_stage_before(tmp_path: Path) -> None:
    stages = [{"kind": "sft", "name": "M1", "data": ITEMS, "start_from": "M1"}]
    with pytest.raises(ConfigError, match="M1"):
        run({**plan(tmp_path), "stages": stages}, reporter=QUIET)
    assert SFTStage(data=ITEMS, start_from="base").past_models() == {"start_from": "base"}


def loaded(path: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(path)["script"]


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        (b"no idea\n", {}, rf"no judgment .* agrees(.|\n)*votes without a score +{VOTES}(.|\n)*examples +0"),
        (b"Score: 3\n", {}, rf"votes that disagree with people +{VOTES}"),
        (
            b"Score: 3 and",
            {"judge": {**JUDGE, "max_new_tokens": 10}},
            rf"votes cut off by their budget +{VOTES}",
        ),
    ],
    ids=["no score", "the same score for all", "cut off"],
)
def test_no_example_at_all_is_an_error_with_the_counts(
    model: bytes, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        stage_of(tmp_path, changes, model=script(model))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"judge": {"mode": "expected"}}, "judge mode 'expected' writes none"),
        ({"judge": {"template": "nice"}}, "neither a built-in"),
        ({"agree": "exact"}, r"40 compared rows: 40 prompts .* 7 of the prompts are held .*have no ratings"),
        ({"data": "ties.jsonl"}, "have no two responses of different worth"),
        (
            {"data": "scored.jsonl", "agree": "exact"},
            r"rating 7 of a response to 'p' is outside .* from 0 to 5",
        ),
        ({"data": "gone.jsonl"}, "there is no data file 'gone.jsonl'"),
        ({"data": "wrong.jsonl"}, "item 0 has the columns"),
        ({"max_shre": 0.3}, "did you mean 'max_share'"),
    ],
)
def test_what_can_be_known_is_said_before_anything_is_judged(
    changes: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scored = [{"prompt": p, "response": "x", "score": 7} for p in "pqr"]
    ties = [{"prompt": p, "responses": ["x", "y"], "ranks": [0, 0]} for p in "pqr"]
    compared = [dict(row) for row in RANKED]
    for name, rows in (("scored", scored), ("ties", ties), ("wrong", [{"text": "x"}]), ("all", compared)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises((ConfigError, DataError), match=words):
        stage_of(tmp_path / "run", {"data": "all.jsonl", **changes})
    assert not (tmp_path / "run" / "stages").exists()


def test_ratings_are_compared_exactly_where_asked_for(tmp_path: Path) -> None:
    rated = [{"prompt": f"q{i}?", "response": f"r {i}", "score": i % 6} for i in range(60)]
    _, folder = stage_of(tmp_path, {"data": rated, "agree": "exact", "max_share": 1.0})
    rows = read(folder / "judge-data.jsonl")
    assert rows
    assert all(row["vote_score"] == row["prompt_index"] % 6 for row in rows)


def test_a_served_judge_writes_examples_too(tmp_path: Path) -> None:
    def answer(asked: Asked, before: int) -> Reply:
        return chat(*["seen\nScore: 5" if " good " in asked.text else "seen\nScore: 1"] * 2)

    with serving(answer) as server:
        at = {"url": server.url, "model": "judge-7b", "retries": 0, "api_key_env": None}
        given = {"template": TEMPLATE, "votes": 2, "server": at}
        _, folder = stage_of(tmp_path, {"judge": given, "num_prompts": 8, "held_out": 0, "max_share": 0.5})
    rows = read(folder / "judge-data.jsonl")
    assert [row["response"] for row in rows] == ["seen\nScore: 5", "seen\nScore: 1"] * 8


def test_a_skew_that_cannot_be_thinned_away_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rated = [{"prompt": f"q{i}?", "response": "r", "score": 3} for i in range(20)]
    model = script(b"Score: 3\n")
    stage, _ = stage_of(tmp_path, {"data": rated, "agree": "exact"}, model=model)
    assert stage["metrics"]["judge_examples"] == 20 - HELD_OUT_OF_20
    out = " ".join(capsys.readouterr().out.split())
    assert "score 3 is 100% of the judge examples, over max_share 0.3" in out

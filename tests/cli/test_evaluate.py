"""`evaluate` as a user types it: a run's stages, or models, compared; its tables and its files."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli import test_cli
from tests.cli.test_cli import Command

srlm, world = test_cli.srlm, test_cli.world

PLAN = """
model: tiny
run: runs/three
stages:
  - {name: one, kind: sft, data: seed.jsonl, num_steps: 2, batch_size: 4, learning_rate: 1e-2}
  - {name: two, kind: sft, data: seed.jsonl, num_steps: 6, batch_size: 4, learning_rate: 1e-2}
"""
COMPARING = ("--judge-set", "template={{ prompt }} A {{ first }} B {{ second }}")
ASKED = ("--prompts", "prompts.txt", "--max-new-tokens", "6")


@pytest.fixture
def run(world: Path, srlm: Command) -> Path:
    (world / "three.yaml").write_text(PLAN)
    assert srlm("train", "three.yaml", "--quiet")[0] == 0
    return world / "runs/three"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_runs_stages_are_compared_and_what_is_written_agrees_with_what_is_shown(
    run: Path,
    srlm: Command,
) -> None:
    code, out, err = srlm("evaluate", str(run), *ASKED, "--reward", "reward.py:length", "--initial")
    assert (code, err) == (0, "")
    for words in ("two", "one", "initial", "win %", "at equal length %", "Elo", "judge: reward.py:length"):
        assert words in out, words
    folder = run / "evaluation/head-to-head"
    assert {"evaluation.json", "leaderboard.csv", "one/model_outputs.json"} <= set(files(folder))

    told = read(folder / "evaluation.json")
    pairs = {(row["first"], row["second"]): row for row in told["win_rates"]}
    assert set(pairs) == {("one", "initial"), ("two", "initial"), ("two", "one")}
    prompts = (run.parent.parent / "prompts.txt").read_text().splitlines()
    answers = {name: read(folder / name / "model_outputs.json") for name in ("initial", "one", "two")}
    for (first, second), row in pairs.items():
        length = [[len(set(each["output"])) for each in answers[name]] for name in (first, second)]
        wins = [(a > b) + 0.5 * (a == b) for a, b in zip(*length, strict=True)]
        assert row["win_rate"]["value"] == pytest.approx(100 * sum(wins) / len(prompts))
        assert row["num"] == len(prompts)
    assert [row["name"] for row in told["ratings"]] == ["initial", "one", "two"]
    assert told["ratings"][0]["elo"]["value"] == 1000


def test_the_files_are_what_alpaca_eval_reads(run: Path, srlm: Command) -> None:
    given = ("--reward", "reward.py:length", "--out", "out", "--baseline", "two")
    assert srlm("evaluate", str(run), *ASKED, *given)[0] == 0
    outputs = read(Path("out/one/model_outputs.json"))
    assert all(set(row) == {"instruction", "output", "generator", "dataset"} for row in outputs)
    assert {row["generator"] for row in outputs} == {"one"}
    notes = read(Path("out/one/annotations.json"))
    baseline = read(Path("out/two/model_outputs.json"))
    for note, own, base in zip(notes, outputs, baseline, strict=True):
        assert (note["output_1"], note["generator_1"]) == (base["output"], "two")
        assert (note["output_2"], note["generator_2"]) == (own["output"], "one")
        lead = len(set(own["output"])) - len(set(base["output"]))
        assert note["preference"] == 1.5 + 0.5 * ((lead > 0) - (lead < 0)), (
            "2: the second output is preferred"
        )
    assert not Path("out/two/annotations.json").exists(), "the baseline is not compared with itself"
    with Path("out/leaderboard.csv").open(newline="") as file:
        rows = {row[""]: row for row in csv.DictReader(file)}
    assert float(rows["two"]["win_rate"]) == 50
    mean = sum(note["preference"] - 1 for note in notes) / len(notes)
    assert float(rows["one"]["win_rate"]) == pytest.approx(100 * mean)


def test_a_second_call_samples_and_judges_nothing_again(run: Path, srlm: Command) -> None:
    given = ("evaluate", str(run), *ASKED, "--judge", "one", *COMPARING, "--out", "out", "--quiet")
    code, first, _ = srlm(*given)
    assert code == 0
    stored = [name for name in files(Path("out")) if name.startswith("verdicts") or "answers" in name]
    times = {name: (Path("out") / name).stat().st_mtime_ns for name in stored}
    assert len(times) == 3
    assert srlm(*given)[1] == first
    assert {name: (Path("out") / name).stat().st_mtime_ns for name in stored} == times
    assert srlm(*given, "--seed", "1")[0] == 0
    assert all((Path("out") / name).stat().st_mtime_ns != then for name, then in times.items())


def test_a_checkpoint_that_was_written_again_answers_again(run: Path, srlm: Command) -> None:
    given = ("evaluate", str(run), *ASKED, "--reward", "reward.py:length", "--out", "out", "--quiet")
    assert srlm(*given)[0] == 0
    times = {name: Path(f"out/{name}/answers.json").stat().st_mtime_ns for name in ("one", "two")}
    os.utime(run / "stages/02-two/checkpoint/model.safetensors", (1, 1))
    assert srlm(*given)[0] == 0
    assert Path("out/one/answers.json").stat().st_mtime_ns == times["one"]
    assert Path("out/two/answers.json").stat().st_mtime_ns != times["two"]


@pytest.mark.parametrize(
    "how",
    [
        ("--judge-mode", "pairwise", *COMPARING),
        ("--judge-mode", "expected", "--judge-set", "template=additive_small"),
        ("--judge-mode", "sampled", "--judge-set", "votes=2", "--judge-set", "unparsed=force"),
    ],
)
def test_a_model_judges_in_every_mode_and_one_against_itself_ties(
    how: tuple[str, ...],
    world: Path,
    srlm: Command,
) -> None:
    (world / "twin").symlink_to(world / "tiny")
    given = ("--judge", "tiny", "--num", "2", "--out", "out")
    code, _, err = srlm("evaluate", "tiny,twin", *ASKED, *given, *how)
    assert (code, err) == (0, "")
    row = read(Path("out/evaluation.json"))["win_rates"][0]
    assert (row["win_rate"]["value"], row["ties"], row["num"]) == (50, 2, 2)
    assert row["first_lengths"] == row["second_lengths"]


def test_what_a_judge_says_nothing_about_is_counted_and_no_loss(
    world: Path,
    srlm: Command,
) -> None:
    (world / "reward.py").write_text("def f(prompts, responses):\n    return [None] * len(prompts)\n")
    given = ("--reward", "reward.py:f", "--out", "out", "--temperature", "2", "--num", "3")
    (world / "mid.yaml").write_text(PLAN)
    assert srlm("train", "mid.yaml", "--quiet")[0] == 0
    code, out, err = srlm("evaluate", "runs/three", *ASKED, *given)
    assert (code, err) == (0, "")
    row = read(Path("out/evaluation.json"))["win_rates"][0]
    assert row["win_rate"]["value"] is None
    assert row["unjudged"] + row["ties"] == 3
    assert row["unjudged"] > 0
    assert "without a verdict" in out


def test_weights_alone_need_the_factory_that_builds_their_model(
    world: Path,
    srlm: Command,
) -> None:
    plan = yaml.safe_load(PLAN)
    plan |= {"model": "tests.stages.worlds:factory", "run": "runs/plain"}
    (world / "plain.yaml").write_text(yaml.safe_dump(plan))
    assert srlm("train", "plain.yaml", "--quiet")[0] == 0
    given = (*ASKED, "--reward", "reward.py:length", "--num", "2")
    assert srlm("evaluate", "runs/plain", *given)[0] == 0, "the plan names the factory"
    both = "runs/plain/stages/01-one/checkpoint,runs/plain:two"
    assert srlm("evaluate", both, *given)[0] == 0, "a checkpoint in its run knows the plan"
    for number, name in ((1, "one"), (2, "two")):
        shutil.copytree(world / f"runs/plain/stages/0{number}-{name}/checkpoint", world / name)
    both = "one,two"
    code, _, err = srlm("evaluate", both, *given)
    assert code == 1
    assert "holds weights alone" in err
    assert "--model module:factory" in err
    code, _, err = srlm("evaluate", f"{both},tiny", *given, "--model", "tests.stages.worlds:factory")
    assert (code, err) == (0, ""), "and what stands alone is loaded as it is"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("tiny,tiny", "--reward", "reward.py:length"), "two models would be called 'tiny'"),
        (("tiny", "--reward", "reward.py:length"), "names 1 model, and a comparison needs two"),
        (("tiny,twin",), "who judges must be said once"),
        (("tiny,twin", "--judge", "tiny", "--reward", "reward.py:length"), "who judges must be said once"),
        (("tiny,twin", "--reward", "reward.py:gone"), "unknown name 'gone'"),
        (("tiny,twin", "--judge", "tiny", "--judge-set", "votes"), "must be KEY=VALUE"),
        (("tiny,twin", "--judge", "tiny", "--judge-set", "vots=3"), "vots: Extra inputs"),
        (("tiny,twin", "--server-url", "http://127.0.0.1:9/v1"), "the judge cannot be used: server.model"),
        (("tiny,twin", "--judge", "tiny", "--baseline", "other"), "'other' is none of the models compared"),
        (("tiny,./gone", "--reward", "reward.py:length"), "model './gone' cannot be loaded"),
        (("tiny,empty", "--reward", "reward.py:length"), "'empty' is a folder without config.json"),
        (("tiny,twin", "--judge", "tiny"), "which leaves -"),
    ],
)
def test_what_a_user_got_wrong_is_said_in_words(
    given: tuple[str, ...],
    message: str,
    world: Path,
    srlm: Command,
) -> None:
    (world / "twin").symlink_to(world / "tiny")
    (world / "empty").mkdir()
    code, _, err = srlm("evaluate", *given, *ASKED)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err, err
    assert "Traceback" not in err


def test_help_names_the_ways_to_judge(srlm: Command) -> None:
    code, out, _ = srlm("evaluate", "--help")
    assert code == 0
    for words in ("--judge", "--reward", "--server-url", "--prompts", "--baseline"):
        assert words in out

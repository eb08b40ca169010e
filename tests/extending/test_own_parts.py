"""Own parts beside ours: from Python, inherited, changed, interrupted, shared among processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from self_rewarding_lm_pytorch.config import Plan, load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.judges.base import judgment_of
from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES, PreferenceLoss
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.plans.text import plan_text
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt, Vote
from self_rewarding_lm_pytorch.stages.external_reward import ExternalRewardStage
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from tests.extending.test_extending import written
from tests.helpers import candidate, prompt
from tests.run_safety.test_changes import begun
from tests.stages.worlds import QUIET, STAGES, plan, rows, weights


class Letters:
    """Scores by the sum of the letters; says how often it was asked."""

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale
        self.calls: list[int] = []

    def judge(self, shown: Any, on_progress: Any = None) -> list[Judgment]:
        self.calls.append(len(shown))
        votes = [(each, self.scale * (sum(map(ord, each.text)) % 7)) for _, each in shown]
        return [judgment_of(each, [Vote(0, "letters", score, "parsed")]) for each, score in votes]


def made(policy: Any, codec: Any, settings: Any) -> PolicyGenerator:
    """Ours, as a plan's own."""
    return PolicyGenerator(policy, codec.eos_ids, token_budget=settings.token_budget)


class Doubled(ExternalRewardStage):
    """Its kind is its parent's but for what the plan says."""


OWN = {key: value for key, value in STAGES["own"].items() if key != "judge"}


def test_from_python_the_objects_themselves_stand_in_the_place_of_names(tmp_path: Path) -> None:
    judge = Letters()
    twice = PreferenceLoss("twice", lambda logprobs, beta: 2 * PREFERENCE_LOSSES["dpo"](logprobs, beta))
    own = {**OWN, "judge": {"custom": judge}, "train": {"batch_size": 2, "loss": twice}}
    text = {**STAGES["text"], "kind": Doubled}
    summary = run(
        plan(
            tmp_path,
            stages=[
                {"name": "own", **own},
                {"name": "text", **text},
                {"name": "class", **OWN, "judge": {"custom": Letters}},
            ],
            generation={"shard_size": 2, "generator": made},
        ),
        reporter=QUIET,
    )
    assert [stage["kind"] for stage in summary["stages"]] == ["self_reward", "Doubled", "self_reward"]
    assert sum(judge.calls) == summary["stages"][0]["yield"]["candidates"]
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["preference_loss"] == pytest.approx(2 * 0.693, abs=0.4)


def test_ours_named_as_ones_own_is_ours_to_the_bit(tmp_path: Path) -> None:
    """A generator, a loss and a stage kind that name our own change nothing of what is made."""
    ours, named = tmp_path / "ours", tmp_path / "named"
    run(plan(ours, "seed", "text"), reporter=QUIET)
    settings = plan(named, "seed", "text")
    settings["generation"]["generator"] = "tests.extending.test_own_parts:made"
    settings["stages"][1] |= {
        "kind": "self_rewarding_lm_pytorch.stages.external_reward:ExternalRewardStage",
        "loss": "self_rewarding_lm_pytorch.losses.preference:DPO",
    }
    run(settings, reporter=QUIET)
    assert rows(named) == rows(ours)
    assert weights(named) == weights(ours)


def test_a_generator_that_is_asked_for_one_sample_each_serves_spin(tmp_path: Path) -> None:
    path = written(tmp_path, "A generator")
    text = yaml.safe_load(path.read_text())
    text["stages"] = [{"name": "play", **STAGES["play"]}]
    path.write_text(yaml.safe_dump(text))
    assert run(path, reporter=QUIET)["status"] == "completed"


def test_a_stage_of_ones_own_is_named_by_its_class_and_inherited_by_like(tmp_path: Path) -> None:
    path = written(tmp_path, "A stage")
    text = yaml.safe_load(path.read_text())
    first = {key: value for key, value in text["stages"][0].items() if key != "name"}
    text["stages"] = [{**first, "beta": 0.5}, {"name": "more", "like": "BestOfN", "train": {"beta": 0.3}}]
    path.write_text(yaml.safe_dump(text))
    loaded = load_plan(path)
    assert [stage.name for stage in loaded.stages] == ["BestOfN", "more"]
    assert [stage.train.beta for stage in loaded.stages] == [0.5, 0.3]
    assert [stage.smallest_margin for stage in loaded.stages] == [0.1, 0.1]
    assert plan_text(load_plan(stored(loaded, tmp_path))) == plan_text(loaded)


def stored(loaded: Plan, folder: Path) -> Path:
    """As a run stores it, without the pairing's functions, which a plan cannot name."""
    text = yaml.safe_load(plan_text(loaded))
    for stage in text["stages"]:
        stage.pop("pairing", None)
    (folder / "resolved.yaml").write_text(yaml.safe_dump(text))
    return folder / "resolved.yaml"


@pytest.mark.parametrize("title", ["A judge", "A judge's prompt", "A loss", "A generator"])
def test_a_stored_plan_with_own_parts_can_be_read_back(title: str, tmp_path: Path) -> None:
    loaded = load_plan(written(tmp_path, title))
    assert plan_text(load_plan(stored(loaded, tmp_path))) == plan_text(loaded)


@pytest.mark.parametrize(
    ("title", "file"),
    [
        ("A judge", "my_judge.py"),
        ("A judge's prompt", "my_rubric.jinja"),
        ("A loss", "my_loss.py"),
        ("A generator", "my_generator.py"),
        ("A stage", "my_stage.py"),
    ],
)
def test_a_changed_file_is_named_when_a_run_goes_on(title: str, file: str, tmp_path: Path) -> None:
    path = written(tmp_path, title)
    text = yaml.safe_load(path.read_text())
    text["stages"].insert(0, {"name": "seed", **STAGES["seed"]})
    path.write_text(yaml.safe_dump(text))
    begun(path)
    changed = tmp_path / file
    changed.write_text(changed.read_text() + ("\n# changed\n" if file.endswith(".py") else "\nchanged\n"))
    with pytest.raises(ConfigError, match=rf"{file}: what is in it is not what it was"):
        run(path, reporter=QUIET)


def test_a_run_that_goes_on_does_not_ask_a_judge_again(tmp_path: Path) -> None:
    judge = Letters()
    settings = plan(tmp_path, stages=[{"name": "own", **OWN, "judge": {"custom": judge}}])

    def stop(env: Any, number: int, stage: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, reporter=QUIET, after_stage=stop)
    asked = len(judge.calls)
    assert asked
    assert run(settings, reporter=QUIET)["status"] == "completed"
    assert len(judge.calls) == asked


class Compared:
    """Needs all of a visit's candidates at once."""

    def judge(self, shown: Any) -> list[Judgment]:
        visits = {(each.prompt_index, each.visit) for _, each in shown}
        assert all(sum((c.prompt_index, c.visit) == visit for _, c in shown) == 3 for visit in visits)
        assert len(shown) <= 256
        return [judgment_of(each, [Vote(0, "", float("nan"), "parsed")]) for _, each in shown]


def test_a_judge_sees_whole_visits_and_a_score_that_is_no_number_is_none() -> None:
    judge = JudgeSettings(custom=Compared).own_judge()
    shown: list[tuple[Prompt, Candidate]] = [
        (prompt(i), candidate(i, j)) for i in range(100) for j in range(3)
    ]
    done: list[int] = []
    judgments = judge.judge(shown, on_progress=lambda count, _: done.append(count))
    assert [(j.prompt_index, j.candidate_index) for j in judgments] == [
        (c.prompt_index, c.index) for _, c in shown
    ]
    assert {(j.score, j.reason) for j in judgments} == {(None, "the score is nan")}
    assert sum(done) == 300
    assert len(done) == 2


@pytest.mark.slow
def test_two_processes_share_own_parts_as_one_does_alone(tmp_path: Path) -> None:
    from tests.processes.launch import plan_file, train

    stages = [{"name": "own", **OWN, "judge": {"custom": "tests.extending.test_own_parts:Letters"}}]
    settings = {"shard_size": 3, "generator": "tests.extending.test_own_parts:made"}
    run(plan_file(tmp_path / "one", *stages, generation=settings), reporter=QUIET)
    code, said = train(plan_file(tmp_path / "two", *stages, generation=settings))
    assert code == 0, said
    assert rows(tmp_path / "two" / "run") == rows(tmp_path / "one" / "run")

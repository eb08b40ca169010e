"""A plan that goes on from what an earlier run made: `model: runs/first`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.load import load_policy, load_reward_model
from self_rewarding_lm_pytorch.overview.plan import overview
from self_rewarding_lm_pytorch.parts.models import named_model
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from tests.helpers import byte_codec
from tests.parts.worlds import CHATML, QUIET, write_model
from tests.stages.worlds import STAGES, plain

SEED: dict[str, Any] = {"name": "more", **STAGES["seed"]}
STILL = {**SEED, "learning_rate": 0.0}


class Heard(Reporter):
    """Keeps what is said and warned of."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture
def first(there: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, as runs/first of the working directory."""
    shutil.copytree(finished, tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    return Path("runs/first")


def plan(model: Any, place: str = "runs/second", stage: Any = STILL, **changes: Any) -> dict[str, Any]:
    return {"model": str(model), "dtype": "auto", "run": place, "stages": [stage], **changes}


def trained(place: str = "runs/second") -> dict[str, Any]:
    policy, _ = named_model(place, dtype="auto").load()
    return {name: tensor.clone() for name, tensor in policy.module.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def manifest(place: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(place) / "manifest.json").read_text())
    return found


def take_back(place: Path, number: int) -> None:
    """The run as it was when stage `number` was its last finished one."""
    noted = manifest(place)
    for entry in noted["stages"][number:]:
        entry["state"] = "pending"
    (place / "manifest.json").write_text(json.dumps(noted))


def interrupted(settings: Any) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, reporter=QUIET, after_stage=stop)


@pytest.mark.parametrize(
    ("named", "stage"),
    [
        ("runs/first", "03-outside"),
        ("runs/first/stages/01-seed", "01-seed"),
        ("runs/first/stages/01-seed/checkpoint", "01-seed"),
        ("runs/first:own", "02-own"),
    ],
)
def test_a_plan_begins_with_the_weights_that_the_run_or_its_stage_ended_with(
    named: str, stage: str, first: Path
) -> None:
    run(plan(named), reporter=QUIET)
    ended = first / "stages" / stage / "checkpoint" / "model.safetensors"
    begun = Path("runs/second/stages/01-more/checkpoint/model.safetensors")
    assert begun.read_bytes() == ended.read_bytes()


def test_training_goes_on_as_it_does_from_the_checkpoints_folder(first: Path) -> None:
    run(plan(first, stage=SEED), reporter=QUIET)
    run(plan(first / "stages/03-outside/checkpoint", "runs/third", SEED), reporter=QUIET)
    assert same(trained(), trained("runs/third"))
    assert not same(trained(), trained("runs/first"))


def test_what_was_taken_is_said_and_noted_in_the_manifest(first: Path) -> None:
    heard = Heard()
    run(plan(first), reporter=heard)
    assert "model runs/first: the model of its last finished stage, 03-outside" in heard.said
    assert heard.warned == []
    noted = manifest("runs/second")["models"]["runs/first"]
    assert noted["checkpoint"] == str((first / "stages/03-outside/checkpoint").resolve())
    assert "model.safetensors" in noted["files"]
    card = Path("runs/second/stages/01-more/checkpoint/README.md").read_text()
    assert noted["files"]["model.safetensors"]["sha256"] in card
    assert str(first.resolve()) not in card, "a card may be published"


def test_of_a_run_under_way_it_is_the_last_finished_stage_and_stays_that(there: Path, first: Path) -> None:
    take_back(first, 1)
    heard = Heard()
    settings = plan(first, stages=[STILL, {**STILL, "name": "again"}])
    interrupted(settings)
    shutil.copyfile(there / "runs/tiny/manifest.json", first / "manifest.json")  # it comes to its end
    run(settings, reporter=heard)
    assert "model runs/first: the model of stage 01-seed, with which this run began" in heard.said
    assert same(trained(), trained("runs/first:seed"))
    assert same(trained("runs/second:initial"), trained("runs/first:seed"))
    run(plan(first, "runs/third"), reporter=heard)
    assert "model runs/first: the model of its last finished stage, 03-outside" in heard.said


def test_a_run_under_way_is_said_to_be(first: Path) -> None:
    take_back(first, 1)
    found = overview(load_plan(plan(first)))
    assert (
        found.read[0] == "model runs/first: the model of its last finished stage, 01-seed (1 of 3 finished)"
    )


def test_another_model_under_the_runs_name_is_not_gone_on_with(first: Path, there: Path) -> None:
    settings = plan(first, stages=[STILL, {**STILL, "name": "again"}])
    interrupted(settings)
    kept = first / "stages/03-outside/checkpoint"
    shutil.copyfile(first / "stages/01-seed/checkpoint/model.safetensors", kept / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model runs/first, model\.safetensors: what is in it is not"):
        run(settings, reporter=QUIET)
    shutil.rmtree(kept)
    with pytest.raises(
        ConfigError, match="model runs/first, stage of that run: '03-outside' became '02-own'"
    ):
        run(settings, reporter=QUIET)


def test_a_finished_run_needs_its_earlier_one_no_more(first: Path) -> None:
    once = run(plan(first), reporter=QUIET)
    shutil.rmtree(first)
    assert run(plan(first), reporter=QUIET) == once


def test_an_altered_checkpoint_is_not_begun_with(first: Path) -> None:
    file = first / "stages/03-outside/checkpoint/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="was altered"):
        run(plan(first), reporter=QUIET)


def without_a_stage(first: Path) -> str:
    take_back(first, 0)
    return str(first)


def unfinished_stage(first: Path) -> str:
    take_back(first, 2)
    shutil.rmtree(first / "stages/03-outside/checkpoint")
    return str(first / "stages/03-outside")


def neither(first: Path) -> str:
    (first.parent / "empty").mkdir()
    return str(first.parent / "empty")


WRONG: dict[str, tuple[Callable[[Path], str], str]] = {
    "no stage has ended": (without_a_stage, "without a finished checkpoint yet; wait for its first stage"),
    "a stage has no checkpoint": (
        unfinished_stage,
        "folder of a stage without a checkpoint; models of .* that are there: initial, seed, own",
    ),
    "a stage that the run does not have": (
        lambda first: f"{first}:second",
        "no finished stage is called so; models of runs/first that are there: initial, seed, own, outside",
    ),
    "a folder that the run does not have": (
        lambda first: f"{first}/03-outside",
        r"is no folder in the run runs/first; models .*: initial, seed, own, outside \(RUN:NAME\)",
    ),
    "neither a run nor a model": (neither, "is a folder without config.json, and no run's"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_model_is_refused_with_what_to_do_by_plan_and_train_alike(case: str, first: Path) -> None:
    make, said = WRONG[case]
    settings = plan(make(first))
    with pytest.raises(ConfigError, match=said):
        run(settings, reporter=QUIET)
    (problem,) = overview(load_plan(settings)).problems
    with pytest.raises(ConfigError, match=said):
        raise ConfigError(problem)


@pytest.mark.parametrize("named", ["runs/first", "runs/first:seed", "runs/first/stages/01-seed/checkpoint"])
def test_a_run_does_not_begin_from_the_folder_that_it_writes_to(named: str, first: Path) -> None:
    before = manifest(first)
    settings = plan(named, "runs/first")
    with pytest.raises(ConfigError, match=r"the folder that this run writes to.*name another folder"):
        run(settings, fresh=True, reporter=QUIET)
    assert manifest(first) == before
    assert "the folder that this run writes to" in overview(load_plan(settings)).problems[0]


def test_names_are_looked_for_beside_the_plan_and_from_home(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan("runs/first", str(tmp_path / "beside"))))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run("../plan.yaml", reporter=QUIET)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("~/runs/first", "~/runs/first:outside", "~/runs/first/stages/03-outside/checkpoint"):
        run(plan(name, "second"), fresh=True, reporter=QUIET)
        assert same(trained("second"), trained(str(tmp_path / "runs/first")))
    assert same(trained(str(tmp_path / "beside")), trained("second"))


def test_plan_shows_it_as_it_shows_a_folder(first: Path) -> None:
    found = overview(load_plan(plan(first)))
    folder = overview(load_plan(plan(first / "stages/03-outside/checkpoint")))
    assert found.problems == found.unseen == []
    assert found.read == ["model runs/first: the model of its last finished stage, 03-outside", *folder.read]
    assert found.estimates.parameters == folder.estimates.parameters is not None
    assert found.estimates.peak == folder.estimates.peak is not None


def test_weights_of_a_factorys_model_go_over_what_the_first_plan_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(plan("tests.stages.worlds:factory", "runs/first", SEED), reporter=QUIET)
    run(plan("runs/first"), reporter=QUIET)
    assert same(trained(), trained("runs/first"))
    assert same(trained("runs/second:initial"), trained("runs/first"))
    assert not same(trained(), trained("tests.stages.worlds:factory"))
    assert list(manifest("runs/second")["models"]["runs/first"]["files"]) == ["model.safetensors"]
    assert named_model("runs/second").load_codec()[0].prompt_ids("a") == (97,)
    found = overview(load_plan(plan("runs/first")))
    assert found.problems == []
    assert any("model 'runs/first' was not made" in line for line in found.unseen)


def test_weights_of_a_model_from_python_are_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {**plan("", "runs/first"), "model": plain(), "tokenizer": byte_codec()}
    run(given, reporter=QUIET)
    with pytest.raises(ConfigError, match=r"holds weights alone .*name module:factory"):
        run(plan("runs/first"), reporter=QUIET)
    assert "holds weights alone" in overview(load_plan(plan("runs/first"))).problems[0]


def test_an_adapter_that_a_run_carried_is_trained_on(there: Path, first: Path) -> None:
    pytest.importorskip("peft")
    run(plan(there / "tiny", "runs/adapted", SEED, adapter={"r": 2}), reporter=QUIET)
    run(plan("runs/adapted"), reporter=QUIET)
    ended, begun = (
        Path(place) / "stages/01-more/checkpoint/adapter_model.safetensors"
        for place in ("runs/adapted", "runs/second")
    )
    assert begun.read_bytes() == ended.read_bytes()
    assert str(there / "tiny") in manifest("runs/second")["models"], "a base that changes is noticed"
    with pytest.raises(ConfigError, match=r"has an adapter already.*leave `adapter` out"):
        run(plan("runs/adapted", "runs/third", adapter={"r": 2}), reporter=QUIET)


def test_an_adapter_of_a_model_in_few_bits_is_to_be_merged_first(there: Path, first: Path) -> None:
    pytest.importorskip("peft")
    run(plan(there / "tiny", "runs/adapted", SEED, adapter={"r": 2}), reporter=QUIET)
    resolved = yaml.safe_load(Path("runs/adapted/plan.yaml").read_text())
    resolved["adapter"]["quantize"] = "4bit"
    Path("runs/adapted/plan.yaml").write_text(yaml.safe_dump(resolved))
    with pytest.raises(ConfigError, match=r"in few bits \(4bit\).*self-rewarding-lm merge"):
        run(plan("runs/adapted"), reporter=QUIET)


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("./runs/first:seed", ""),
        ("./runs/first:other", "no finished stage is called so"),
        ("./no", "is no folder"),
    ],
)
def test_plan_finds_a_judges_model_in_a_run_as_training_does(
    named: str, problem: str, first: Path, there: Path
) -> None:
    judged = {"name": "own", **STAGES["own"]}
    judged["judge"] = {**judged["judge"], "model": named}
    problems = overview(load_plan(plan(there / "tiny", stage=judged))).problems
    assert [problem in line for line in problems] == [True] * bool(problem)


def test_a_judges_model_may_be_a_run_and_a_reward_model_may_not(first: Path, there: Path) -> None:
    judged = {"name": "own", **STAGES["own"]}
    judged["judge"] = {**judged["judge"], "model": "runs/first:seed"}
    heard = Heard()
    run(plan(there / "tiny", stage=judged), reporter=heard)
    assert "model runs/first:seed: the model of stage 01-seed" in heard.said
    assert manifest("runs/second")["models"]["runs/first:seed"]["checkpoint"].endswith("01-seed/checkpoint")
    judge = load_policy("runs/first:seed", dtype="auto")[0].module.state_dict()
    assert same(dict(judge), trained("runs/first:seed"))
    with pytest.raises(ConfigError, match=r"is the model of its last finished stage, .* writes text"):
        load_reward_model("runs/first")


def test_the_template_comes_with_the_tokenizer_and_what_else_chat_said_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "tiny")
    run(plan("tiny", "runs/plain", chat={"template": CHATML}), reporter=QUIET)
    run(plan("tiny", "runs/first", chat={"template": CHATML, "system": "be brief"}), reporter=QUIET)
    heard = Heard()
    run(plan("runs/plain"), reporter=heard)
    assert heard.warned == [], "the template is in the tokenizer"
    assert named_model("runs/second").load_codec()[0].has_chat_template
    run(plan("runs/first", "runs/third"), reporter=heard)
    (line,) = heard.warned
    assert "by chat: {system: be brief}, which is not taken over" in line
    assert overview(load_plan(plan("runs/first"))).warnings[0] == line
    for chat in ({}, {"system": "be long"}):
        run(plan("runs/first", "runs/fourth", chat=chat), fresh=True, reporter=heard)
    assert len(heard.warned) == 1
    codec = named_model("runs/fourth").load_codec()[0]
    assert "system: be long" in codec.decode(codec.prompt_ids("why?"))

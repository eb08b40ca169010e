"""Plans: what they may say, what they come to, and every problem in words before a model is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import torch
import yaml
from pydantic import BaseModel

from self_rewarding_lm_pytorch.config import Plan, load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.plans.text import plan_text
from self_rewarding_lm_pytorch.stages import STAGES
from self_rewarding_lm_pytorch.stages.self_reward import SelfRewardStage
from self_rewarding_lm_pytorch.stages.sft import SFTStage
from tests.helpers import Recurrent, byte_codec

SAMPLE = """
model: Qwen/Qwen2.5-0.5B-Instruct      # a hub name, a folder, or module:factory
seed: 0
run: runs/qwen                         # where everything goes
stages:
  - {name: seed, kind: sft, data: seed.jsonl, epochs: 3, learning_rate: 5.5e-6}
  - name: first
    kind: self_reward
    prompts: prompts.jsonl
    num_pairs: 3964
    candidates: {num: 4, temperature: 0.7, top_p: 0.9}
    judge: {template: additive, votes: 3, unparsed: drop}
    train: {loss: dpo, beta: 0.1, learning_rate: 1.0e-6, batch_size: 16}
  - {name: second, like: first, num_pairs: 6942}
"""


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """The plan of the design, section 4, as a file."""
    path = tmp_path / "plan.yaml"
    path.write_text(SAMPLE)
    return path


def problems(plan: Any, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_plan(plan, overrides)
    return str(error.value).removeprefix("the plan cannot be run:\n").split("\n")


def one(**stage: Any) -> dict[str, Any]:
    return {"model": "m", "stages": [stage]}


SFT = {"kind": "sft", "data": "d.jsonl"}
OWN = {"kind": "self_reward", "prompts": "p.jsonl"}


def test_the_sample_plan_of_the_design_says_what_it_means(sample: Path) -> None:
    plan = load_plan(sample)
    assert (plan.model, plan.seed, plan.run) == ("Qwen/Qwen2.5-0.5B-Instruct", 0, Path("runs/qwen"))
    seed, first, second = plan.stages
    assert [stage.name for stage in plan.stages] == ["seed", "first", "second"]
    assert (seed.train.epochs, seed.train.learning_rate, seed.train.end_learning_rate) == (3, 5.5e-6, 1.1e-6)
    assert (first.num_pairs, second.num_pairs) == (3964, 6942)
    assert (second.judge.votes, second.judge.unparsed, second.judge.template) == (3, "drop", "additive")
    assert (second.candidates.num, second.candidates.top_p, second.train.beta) == (4, 0.9, 0.1)
    assert plan.base == sample.parent, "data files are looked for beside the plan"


def test_a_dictionary_gives_the_same_plan_as_the_file(sample: Path) -> None:
    source = yaml.safe_load(SAMPLE)
    assert plan_text(load_plan(source)) == plan_text(load_plan(sample)) == plan_text(load_plan(str(sample)))
    assert source == yaml.safe_load(SAMPLE), "the caller's dictionary is left as it was"


def test_the_defaults_of_the_stages_are_the_papers(sample: Path) -> None:
    plan = load_plan({"model": "m", "stages": [SFT, OWN, {"kind": "spin", "data": "d"}]})
    _, own, spin = plan.stages
    assert (own.candidates.num, own.candidates.temperature, own.candidates.top_p) == (4, 0.7, 0.9)
    assert (own.judge.votes, own.judge.unparsed, own.judge.score_range) == (3, "drop", (0, 5))
    assert (own.train.batch_size, own.train.beta, own.train.learning_rate) == (16, 0.1, 1e-6)
    assert (spin.train.loss, spin.train.beta) == ("spin", 0.1)


# like


def test_like_merges_deeply_and_leaves_the_other_stage_alone() -> None:
    judged = {**OWN, "name": "a", "judge": {"votes": 5, "template": "additive"}, "beta": 0.3}
    plan = load_plan({"model": "m", "stages": [judged, {"name": "b", "like": "a", "judge": {"votes": 2}}]})
    first, second = plan.stages
    assert (second.judge.votes, second.judge.template, second.train.beta) == (2, "additive", 0.3)
    assert (first.judge.votes, second.name, second.prompts) == (5, "b", "p.jsonl")


def test_like_may_follow_like_and_change_the_kind() -> None:
    stages = [
        {**OWN, "name": "a", "train": {"beta": 0.3, "epochs": 2}},
        {"name": "b", "like": "a", "epochs": 4},
        {"name": "c", "like": "b", "train": {"beta": 0.5}},
    ]
    train = load_plan({"model": "m", "stages": stages}).stages[2].train
    assert (train.beta, train.epochs) == (0.5, 4)


def test_what_a_stage_says_itself_wins_over_like_wherever_either_says_it() -> None:
    """Training settings may stand in `train` or beside it; the later stage's word counts."""
    beside = {**OWN, "name": "a", "beta": 0.3}
    inside = {**OWN, "name": "a", "train": {"beta": 0.3}}
    for before in (beside, inside):
        for after in ({"beta": 0.4}, {"train": {"beta": 0.4}}):
            plan = load_plan({"model": "m", "stages": [before, {"name": "b", "like": "a", **after}]})
            assert [stage.train.beta for stage in plan.stages] == [0.3, 0.4]


def test_like_shares_objects_and_copies_containers() -> None:
    prompts = [f"p{i}" for i in range(3)]
    judge = Recurrent()
    stages = [
        {"kind": "external_reward", "name": "a", "prompts": prompts, "reward_model": judge},
        {"like": "a", "name": "b"},
    ]
    first, second = load_plan({"model": "m", "stages": stages}).stages
    assert first.reward_model is second.reward_model is judge, "a second model would be a second memory"


@pytest.mark.parametrize("like", ["nobody", "b", ["a"]])
def test_like_names_an_earlier_stage(like: Any) -> None:
    stages = [{**OWN, "name": "a"}, {**OWN, "name": "b", "like": like}]
    assert problems({"model": "m", "stages": stages}) == [
        f"  - stage 2: like: {like!r} names no earlier stage (a)"
    ]


# --set


@pytest.mark.parametrize(
    "override",
    ["stages.second.beta=0.2", "stages.3.beta=0.2", "stages.second.train.beta=0.2", "stages.3.train.beta=.2"],
)
def test_set_reaches_a_stage_by_name_and_by_number_from_one(sample: Path, override: str) -> None:
    plan = load_plan(sample, [override])
    assert [stage.train.beta for stage in plan.stages[1:]] == [0.1, 0.2]


def test_set_reaches_a_stage_without_a_name_by_its_kind() -> None:
    plan = load_plan(one(**OWN), ["stages.self_reward.judge.votes=7"])
    assert plan.stages[0].judge.votes == 7


def test_the_later_of_two_overrides_wins_and_values_are_yaml(sample: Path) -> None:
    overrides = [
        "seed=3",
        "seed=4",
        "model=some/folder",
        "stages.first.candidates={num: 2, top_k: 5}",
        "stages.first.num_pairs=null",
        "stages.seed.learning_rate=1e-5",
        "generation.use_cache=false",
    ]
    plan = load_plan(sample, overrides)
    first = plan.stages[1]
    assert (plan.seed, plan.model, plan.generation.use_cache) == (4, "some/folder", False)
    assert (first.candidates.num, first.candidates.top_k, first.candidates.top_p) == (2, 5, None)
    assert first.num_pairs is None
    assert plan.stages[0].train.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.third.beta=1", "there is no 'third' in the plan"),
        ("stages.0.beta=1", "there is no '0' in the plan"),
        ("stages.4.beta=1", "there is no '4' in the plan"),
        ("seed", "'seed' must be key=value"),
        ("seed.more.less=1", "there is no 'less'|'more' in the plan|holds no settings"),
        ("stages.first.bta=1", "unknown key 'bta'; did you mean 'beta'"),
        ("sede=1", "unknown key 'sede'; did you mean 'seed'"),
        ("stages.first.beta=[", "beta"),
    ],
)
def test_an_override_that_reaches_nothing_is_said(sample: Path, override: str, message: str) -> None:
    assert re.search(message, "\n".join(problems(sample, override)))


def test_overrides_of_a_plan_made_in_python_are_refused_not_ignored() -> None:
    with pytest.raises(ConfigError, match="takes no overrides"):
        load_plan(Plan(model="m", stages=[SFTStage(data="d")]), ["seed=1"])


# training settings beside the stage's own


def test_training_keys_may_stand_beside_the_stages_own() -> None:
    spread = load_plan(one(**OWN, beta=0.2, learning_rate=2e-6, batch_size=4))
    nested = load_plan(one(**OWN, train={"beta": 0.2, "learning_rate": 2e-6, "batch_size": 4}))
    assert plan_text(spread) == plan_text(nested)


def test_a_setting_given_twice_is_refused() -> None:
    assert problems(one(**OWN, beta=0.2, train={"beta": 0.3})) == [
        "  - stage 1: beta is given twice, in train and beside it; keep one"
    ]


# problems


def test_every_problem_is_reported_together_with_the_nearest_known_key() -> None:
    plan = {
        "modle": "m",
        "seed": "seven",
        "dtype": "float61",
        "stages": [
            {**SFT, "epoch": 3},
            {"kind": "self_rewrad", "prompts": "p"},
            {"kind": "self_reward", "num_pairs": 0, "candidates": {"num": 1}, "judge": {"votez": 3}},
            {"name": "lonely"},
            "sft",
            {"kind": "dpo", "name": "d", "data": "x", "loss": "dop"},
        ],
    }
    found = problems(plan)
    expected = [
        "plan: unknown key 'modle'; did you mean 'model'?",
        "plan: model is missing",
        "plan: seed='seven'",
        "plan: dtype='float61'",
        "stage 1 (sft): unknown key 'epoch'; did you mean 'epochs'?",
        f"stage 2 (self_rewrad): unknown stage kind 'self_rewrad'; known: {', '.join(sorted(STAGES))}. "
        "Did you mean 'self_reward'?",
        "stage 3 (self_reward): prompts is missing",
        "stage 3 (self_reward): num_pairs=0",
        "stage 3 (self_reward): candidates.num=1",
        "stage 3 (self_reward): unknown key 'judge.votez'; did you mean 'votes'?",
        f"stage 4: needs a kind, one of {', '.join(STAGES)}",
        "stage 5: needs a kind",
        "stage 6 (d): train.loss='dop'",
    ]
    for line in expected:
        assert sum(text.startswith(f"  - {line}") for text in found) == 1, (line, found)
    assert len(found) == len(expected)
    assert "unknown preference loss 'dop'; known: aot" in "\n".join(found)
    assert "Did you mean 'dpo'?" in "\n".join(found)


@pytest.mark.parametrize("kind", list(STAGES))
def test_every_stage_kind_says_which_key_it_does_not_know(kind: str) -> None:
    (line,) = (line for line in problems(one(kind=kind, learning_rat=1)) if "missing" not in line)
    trains = "train" in STAGES[kind].model_fields
    hint = "; did you mean 'learning_rate'?" if trains else "; known: "
    assert line.startswith(f"  - stage 1 ({kind}): unknown key 'learning_rat'{hint}")


def test_an_unknown_key_with_no_near_one_lists_the_known() -> None:
    (line,) = problems(one(**OWN, judge={"zzzz": 1}))
    assert "known: " in line
    assert "votes" in line


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({**OWN, "candidates": {"top_p": 0.9, "top_k": 5}}, "top_p and top_k are both given; choose one"),
        ({**OWN, "judge": {"min_p": 0.1, "filter_fn": "top_k"}}, "min_p and filter_fn are both given"),
        ({**OWN, "candidates": {"filter_fn": "top_q"}}, "unknown filter 'top_q'; known"),
        (
            {**SFT, "learning_rate": 1e-6, "end_learning_rate": 1e-5},
            "end_learning_rate 1e-05 is above learning_rate 1e-06",
        ),
        ({**OWN, "candidates": {"temperature": -1}}, "candidates.temperature=-1"),
        ({**OWN, "candidates": {"top_p": 1.5}}, "candidates.top_p=1.5"),
        ({**OWN, "beta": 0}, "train.beta=0"),
        ({**SFT, "batch_size": "many"}, "train.batch_size='many'"),
        ({**OWN, "judge": {"unparsed": "guess"}}, "judge.unparsed='guess'.*'drop' or 'force'"),
        ({**OWN, "train": 5}, "train=5"),
    ],
)
def test_a_wrong_value_or_a_contradiction_is_said_with_the_value(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_plan(one(**stage))


def test_another_filter_takes_the_place_of_the_default_one() -> None:
    own = load_plan(one(**OWN, candidates={"top_k": 5}, judge={"min_p": 0.1})).stages[0]
    assert (own.candidates.top_p, own.candidates.top_k) == (None, 5)
    assert (own.judge.top_p, own.judge.min_p) == (None, 0.1)


@pytest.mark.parametrize("stages", [None, [], {}, "sft"])
def test_a_plan_needs_stages(stages: Any) -> None:
    assert (
        "stages: a plan needs a list of at least one stage" in problems({"model": "m", "stages": stages})[0]
    )


def test_stages_of_one_name_are_refused_in_plans_because_names_address_them() -> None:
    stages = [{**SFT, "name": "a"}, {**OWN, "name": "a"}]
    line = "  - stages 1 and 2 are both named 'a'; give each a name of its own"
    assert problems({"model": "m", "stages": stages}) == [line]
    unnamed = problems({"model": "m", "stages": [SFT, SFT]})
    assert unnamed == ["  - stages 1 and 2 are both named 'sft'; give each a name of its own"]


def test_stage_objects_may_share_a_name() -> None:
    """The published interface passes objects; nothing addresses those by name."""
    objects = [SelfRewardStage(name="a", prompts=["p"]), SelfRewardStage(name="a", prompts=["q"])]
    assert [stage.prompts for stage in load_plan({"model": "m", "stages": objects}).stages] == [["p"], ["q"]]
    plan = load_plan(Plan(model="m", stages=[*objects, SelfRewardStage(prompts=["r"])]))
    assert [stage.name for stage in plan.stages] == ["a", "a", "self_reward"]


@pytest.mark.parametrize("name", ["a/b", "..", "", "a\\b", ".hidden", "end.", "a:b"])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    assert f"name {name!r} cannot be a folder's" in problems(one(**SFT, name=name))[0]


# files


def test_a_plan_that_is_not_there_or_not_yaml_or_no_plan_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml' cannot be read: No such file"):
        load_plan(tmp_path / "gone.yaml")
    path = tmp_path / "plan.yaml"
    for content, message in (
        (b"stages: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- sft", "must be a mapping with model and stages, not list"),
        (b"", "must be a mapping with model and stages, not NoneType"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load_plan(path)
    with pytest.raises(ConfigError, match="not int"):
        load_plan(5)


@pytest.mark.parametrize("number", ["1e-8", "1E-8", "1.0e-8", "1.e-8", "0.00000001"])
def test_a_number_in_a_plan_is_a_number_however_it_is_written(number: str, tmp_path: Path) -> None:
    """PyYAML alone reads 1e-8 as text, which an optimizer argument would then be."""
    path = tmp_path / "plan.yaml"
    path.write_text(f"model: m\nstages: [{{kind: sft, data: d, optimizer_kwargs: {{eps: {number}}}}}]")
    assert load_plan(path).stages[0].train.optimizer_kwargs == {"eps": 1e-8}
    plan = load_plan(one(**SFT), [f"stages.sft.optimizer_kwargs.eps={number}"])
    assert plan.stages[0].train.optimizer_kwargs == {"eps": 1e-8}


# the resolved plan


def test_the_resolved_plan_shows_every_default_and_reads_back_as_itself(sample: Path) -> None:
    text = plan_text(load_plan(sample))
    shown = yaml.safe_load(text)
    kind = STAGES["self_reward"]
    first = shown["stages"][1]
    assert set(first) == set(kind.model_fields)
    for part in ("candidates", "judge", "pairing", "train"):
        fields = kind.model_fields[part].annotation.model_fields
        assert set(first[part]) == {name for name in fields if not callable(fields[name].default)}
    assert set(shown) == set(Plan.model_fields) - {"base"}
    assert first["pairing"]["unfinished"] == "keep"
    assert first["train"]["max_grad_norm"] == 1.0
    assert yaml.safe_load(plan_text(load_plan(shown))) == shown


def test_a_class_of_ones_own_is_not_told_as_the_one_it_is_derived_from() -> None:
    class Mine(SelfRewardStage):
        threshold: float = 0.0

    class Named(SelfRewardStage):
        kind: Literal["named"] = "named"  # type: ignore[assignment]

    stages = [Mine(prompts=["p"]), Named(prompts=["p"]), SelfRewardStage(prompts=["p"])]
    shown = yaml.safe_load(plan_text(load_plan(Plan(model="m", stages=stages))))["stages"]
    assert [stage["kind"] for stage in shown] == ["Mine", "named", "self_reward"]


@pytest.mark.parametrize("kind", STAGES)
def test_a_part_that_is_given_in_part_keeps_the_stages_own_defaults(kind: str) -> None:
    for name, field in STAGES[kind].model_fields.items():
        if isinstance(field.default_factory, type) and issubclass(field.default_factory, BaseModel):
            kinds = [field.annotation, *get_args(field.annotation)]
            assert field.default_factory in kinds, f"{kind}.{name}: {{}} would have another class's defaults"


def test_a_plan_object_needs_a_stage() -> None:
    with pytest.raises(ConfigError, match="a list of at least one stage"):
        load_plan(Plan(model="m", stages=[]))


def test_objects_are_shown_by_their_qualified_names_and_long_data_by_its_length() -> None:
    plan = load_plan(
        {
            "model": Recurrent(),
            "tokenizer": byte_codec(),
            "stages": [
                {"kind": "sft", "data": [(torch.arange(4), 2)] * 50},
                {**OWN, "candidates": {"filter_fn": torch.relu}, "pairing": {"is_valid_reward": problems}},
            ],
        }
    )
    shown = yaml.safe_load(plan_text(plan))
    assert shown["model"] == "<tests.helpers.Recurrent>"
    assert shown["tokenizer"] == "<self_rewarding_lm_pytorch.text.FunctionCodec>"
    assert shown["stages"][0]["data"] == "<50 items>"
    assert shown["stages"][1]["pairing"]["is_valid_reward"] == "<tests.test_config.problems>"
    assert "relu" in shown["stages"][1]["candidates"]["filter_fn"]


def test_loading_a_plan_loads_no_model() -> None:
    assert load_plan({"model": "no/such/model", "stages": [SFT]}).model == "no/such/model"

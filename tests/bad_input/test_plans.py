"""Plans that say too much, too little, or two things at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from self_rewarding_lm_pytorch.cli.main import main
from tests.bad_input.table import Case, World, cases, check, stage


def of(_stage: str, /, *words: str, **changes: Any) -> tuple[Any, tuple[str, ...]]:
    """A plan of one stage that is wrong, and the words it is refused with."""
    return (lambda world: world.plan(stage(_stage, **changes))), words


def with_top(**changes: Any) -> Any:
    return lambda world: world.plan(stage("seed"), **changes)


def written(text: str) -> Any:
    """A plan's file of that text."""
    return lambda world: world.file("plan.yaml", text.replace("RUN", str(world.run)))


def several(world: World) -> Any:
    plan = world.plan(
        stage("seed", epoch=3), stage("own", num_pairs=0), {"kind": "sfd"}, sede=1, dtype="half"
    )
    return {**plan, "seed": "one"}


UNKNOWN = [
    Case("a key of the plan is misspelt", with_top(sede=1), ("unknown key 'sede'", "did you mean 'seed'?")),
    Case("a key of a stage is misspelt", *of("seed", "stage 1 (seed)", "'epoch'", "'epochs'", epoch=3)),
    Case("a key of train is misspelt", *of("own", "'train.bata'", "'beta'", train={"bata": 0.1})),
    Case("a key of candidates is misspelt", *of("own", "'candidates.nums'", "'num'", candidates={"nums": 3})),
    Case("a key of judge is misspelt", *of("own", "'judge.votez'", "'votes'", judge={"votez": 3})),
    Case("a key of pairing is misspelt", *of("own", "'pairing.pik'", "'pick'", pairing={"pik": 1})),
    Case("a key of opponent is misspelt", *of("play", "'opponent.temp'", "known", opponent={"temp": 1})),
    Case(
        "a key of judge_data is misspelt",
        *of("seed", "'judge_data.daat'", "did you mean 'data'?", judge_data={"daat": "x", "data": "y"}),
    ),
    Case("a key of temporal is misspelt", *of("own", "'temporal.pats'", "'past'", temporal={"pats": "a"})),
    Case(
        "a key of generation is misspelt",
        with_top(generation={"shard_sise": 3}),
        ("'generation.shard_sise'", "'shard_size'"),
    ),
    Case(
        "a key of report_card is misspelt",
        with_top(report_card={"data": "x", "prob": 1}),
        ("'report_card.prob'", "did you mean 'probes'?"),
    ),
    Case(
        "a key of a data source is misspelt",
        *of("seed", "'splitt'", "Did you mean 'split'?", data={"file": "x", "splitt": "a"}),
    ),
    Case("a kind of stage is misspelt", *of("own", "'self_rewrad'", "'self_reward'", kind="self_rewrad")),
    Case("a loss is misspelt", *of("given", "'dop'", "Did you mean 'dpo'?", train={"loss": "dop"})),
    Case(
        "an argument of the optimizer is misspelt",
        *of("seed", "'epz'", "Did you mean 'eps'?", optimizer_kwargs={"epz": 1e-8}),
    ),
    Case(
        "an override reaches no stage",
        with_top(),
        ("--set 'stages.third.beta=1'", "there is no 'third' in the plan"),
        overrides=("stages.third.beta=1",),
    ),
    Case("an override has no value", with_top(), ("--set 'seed'", "must be key=value"), overrides=("seed",)),
]

VALUES = [
    Case("text stands for a number", *of("seed", "epochs='many'", "valid integer", epochs="many")),
    Case("a fraction stands for a count", *of("seed", "epochs=2.5", "valid integer", epochs=2.5)),
    Case("yes stands for a number", *of("seed", "epochs=True", "a number is wanted", epochs=True)),
    Case("a number is infinite", *of("seed", "rate=inf", "finite", learning_rate=float("inf"))),
    Case("a temperature is no number", *of("own", "nan", "0", candidates={"temperature": float("nan")})),
    Case("a count is negative", *of("own", "num_pairs=-4", "greater than or equal to 1", num_pairs=-4)),
    Case("a list stands for settings", *of("own", "judge=[3]", "valid dictionary", judge=[3])),
    Case("weights in float16 are asked for", with_top(dtype="float16"), ("'float16'", "'bfloat16'")),
    Case("a scale is above one", with_top(scale=2), ("scale=2", "less than or equal to 1")),
    Case("trust is not yes or no", with_top(trust_remote_code="maybe"), ("'maybe'", "valid boolean")),
    Case("the model is left empty", with_top(model=None), ("model=None", "a hub name, a folder")),
    Case("the run is left empty", with_top(run=""), ("run=''", "a folder to write to")),
    Case("the seed is text", with_top(seed="seven"), ("seed='seven'", "valid integer")),
    Case("a name is a path", *of("seed", "'../x'", "leave out /", **{"name": "../x"})),
    Case("a name is too long", *of("seed", "'xxx", "below 200 bytes", **{"name": "x" * 300})),
    Case("there are no stages", with_top(stages=[]), ("stages", "a list of at least one stage")),
    Case("a stage has no kind", with_top(stages=[{"name": "a"}]), ("stage 1", "needs a kind, one of sft")),
    Case("a required key is missing", with_top(stages=[{"kind": "dpo"}]), ("data is missing", "`data: ...`")),
    Case("iterations are none", *of("seed", "iterations=0", "from 1 to 1000", iterations=0)),
    Case(
        "a time limit is zero",
        *of("text", "reward_timeout_seconds=0", "greater than 0", reward_timeout_seconds=0),
    ),
]

CONTRADICTIONS = [
    Case(
        "two filters are given",
        *of("own", "top_p and top_k are both given", "choose one", candidates={"top_p": 0.9, "top_k": 5}),
    ),
    Case(
        "the learning rate would rise",
        *of("seed", "end_learning_rate 1.0 is above learning_rate 0.01", "falls", end_learning_rate=1),
    ),
    Case(
        "a key stands beside train and in it",
        *of("seed", "batch_size is given twice", "keep one", train={"batch_size": 2}),
    ),
    Case(
        "two stages have one name",
        lambda world: world.plan(stage("seed"), stage("seed")),
        ("stages 1 and 2 are both named 'seed'", "a name of its own"),
    ),
    Case(
        "values for three iterations are given to two",
        *of("seed", "each of 3 iterations", "iterations is 2", iterations=2, epochs={"each": [1, 2, 3]}),
    ),
    Case("like names a later stage", *of("seed", "like: 'own'", "no earlier stage", like="own")),
    Case(
        "start_from names no stage",
        *of("own", "start_from names 'sedd'", "known here: initial", start_from="sedd"),
    ),
    Case(
        "prompts are made by no stage",
        *of("own", "prompts names 'maker'", "known here: none", prompts={"made_by": "maker"}),
    ),
    Case(
        "prompts are a mapping that says nothing",
        *of("own", "{'made_byy': 'x'}", "{made_by: NAME}", prompts={"made_byy": "x"}),
    ),
    Case(
        "a reward and a reward model are given",
        *of("text", "needs either reward", "or reward_model", reward_model="folder"),
    ),
    Case(
        "the score range is upside down",
        *of(
            "own",
            "(5.0, 0.0)",
            "give (lowest, highest)",
            judge={"template": "{{ prompt }}{{ response }}", "score_range": [5, 0]},
        ),
    ),
    Case(
        "a judge template is unknown",
        *of("own", "'additiv'", "additive", judge={"template": "additiv"}),
    ),
    Case(
        "the reference is an adapter that is not there",
        *of(
            "given",
            "adapter_off cannot be had",
            "take reference: stage_start",
            train={"reference": "adapter_off"},
        ),
    ),
    Case(
        "recomputing is asked of a model that cannot",
        *of("seed", "gradient_checkpointing: plain models", "leave it out", gradient_checkpointing=True),
    ),
    Case(
        "several faults are told together",
        several,
        (
            "unknown key 'sede'",
            "seed='one'",
            "dtype='half'",
            "stage 1 (seed): unknown key 'epoch'",
            "stage 2 (own): num_pairs=0",
            "stage 3 (sfd): unknown stage kind 'sfd'",
        ),
    ),
]

TOP = "model: m\nrun: RUN\n"
FILES = [
    Case(
        "a key is given twice in YAML",
        written(f"{TOP}seed: 1\nstages: [{{kind: sft, data: d}}]\nseed: 2\n"),
        ("'seed'", "line 3", "line 5", "remove one"),
    ),
    Case(
        "a key of a stage is given twice in YAML",
        written(f"{TOP}stages:\n  - kind: sft\n    data: a\n    data: b\n"),
        ("'data'", "line 5", "line 6", "remove one"),
    ),
    Case("a plan's YAML is broken", written(f"{TOP}stages: ["), ("is not YAML", "line 3", "Mend it")),
    Case(
        "a plan asks YAML to run code",
        written(f"{TOP}seed: !!python/object/apply:os.system ['true']\n"),
        ("is not YAML", "python/object/apply:os.system", "Mend it"),
    ),
    Case(
        "a plan is not text",
        lambda world: world.file("plan.yaml", b"\xff\xfe\x00\x01"),
        ("is not YAML", "plan.yaml", "UTF-8"),
    ),
    Case(
        "a plan is not there",
        lambda world: str(world.given / "gone.yaml"),
        ("gone.yaml' cannot be read", "No such file", "`init`"),
    ),
    Case("a plan is a folder", lambda world: str(world.given), ("cannot be read", "directory", "YAML file")),
    Case("a plan is empty", written(""), ("mapping with model and stages", "NoneType", "give a YAML file")),
    Case("a plan is a list", written("- kind: sft\n"), ("mapping with model and stages", "not list")),
]

CASES = [*UNKNOWN, *VALUES, *CONTRADICTIONS, *FILES]


@cases(CASES)
def test_a_wrong_plan_is_refused_in_words_and_nothing_is_written(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_the_command_prints_the_message_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    path = world.file("plan.yaml", yaml.safe_dump(world.plan(stage("seed", epoch=3), sede=1)))
    monkeypatch.setattr("sys.argv", ["srlm", "train", path])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    assert end.value.code == 1
    assert "error: the plan cannot be run" in told.err
    assert "'epochs'" in told.err
    assert "'seed'" in told.err
    assert "Traceback" not in told.err + told.out
    assert not world.run.exists()

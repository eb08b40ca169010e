"""Remedies of a stage that learns from its own answers: what each really does, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from scipy import stats
from torch import Tensor

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.judges.function import FunctionJudge
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages import rewarded
from self_rewarding_lm_pytorch.stages.base import Environment, StageRun
from self_rewarding_lm_pytorch.stages.consistency import ConsistencySettings, label_certainties
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.prompts import read_prompts
from self_rewarding_lm_pytorch.stages.sampling import CandidateSettings
from self_rewarding_lm_pytorch.training.metrics import MetricsLog
from tests.helpers import byte_codec
from tests.stages.worlds import MODELS, PROMPTS, QUIET, STAGES, TEMPLATE, plain, plan, rows, weights

EXPECTED = {"template": TEMPLATE, "mode": "expected"}
IDS = torch.tensor([list(b"what of sun? it"), list(b"yes 1, no 2; so")])


def settings(folder: Path, name: str, changes: dict[str, Any], **of_plan: Any) -> dict[str, Any]:
    """Supervised training, then the stage of that name with the changes."""
    seed = {"name": "seed", **STAGES["seed"], **of_plan.pop("seed_changes", {})}
    return plan(folder, stages=[seed, {"name": name, **STAGES[name], **changes}], **of_plan)


def finished(folder: Path, name: str, changes: dict[str, Any], **of_plan: Any) -> ShardStore:
    run(settings(folder, name, changes, **of_plan), reporter=QUIET)
    return ShardStore(folder / "stages" / f"02-{name}")


def environment(policy: Policy) -> Environment:
    return Environment(policy, byte_codec(), 0, Accelerator(cpu=True), QUIET)


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def logits(policy: Policy) -> Tensor:
    with policy.evaluating():
        return policy.logits(IDS).clone()


def adapted(seed: int = 0) -> Any:
    peft = pytest.importorskip("peft")
    module = MODELS["hugging face"](seed)
    torch.manual_seed(5)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    return peft.get_peft_model(module, config)


FAMILIES: dict[str, Callable[[], Any]] = {**MODELS, "adapter": adapted}


@pytest.mark.parametrize("family", FAMILIES)
def test_past_models_are_what_they_were_and_the_policy_can_become_them(family: str, tmp_path: Path) -> None:
    module = FAMILIES[family]()
    were = {"initial": state(module)}
    trains = [parameter.requires_grad for parameter in module.parameters()]

    def look(env: Environment, number: int, stage: Any) -> None:
        were[stage.name] = state(env.policy.module)
        if number == 1:
            with pytest.raises(ConfigError, match=r"'text' of this run is finished.*known: initial, seed"):
                env.past_policy("text")
            return
        for name, expected in were.items():
            past = env.past_policy(name)
            assert_equal(state(past.module), expected)
            assert not past.module.training
            assert not any(parameter.requires_grad for parameter in past.module.parameters())
            assert_equal(state(env.policy.module), were["text"])
            if name == "text":
                assert torch.allclose(logits(past), logits(env.policy), atol=1e-5)
        for name in ("initial", "seed", "text"):
            env.return_to(name)
            assert_equal(state(env.policy.module), were[name])
            assert [parameter.requires_grad for parameter in module.parameters()] == trains

    given = settings(tmp_path, "text", {}, model=module, tokenizer=byte_codec())
    run(given, reporter=QUIET, after_stage=look)
    assert len(were) == 3
    for name, other in (("initial", "seed"), ("seed", "text")):
        assert not all(torch.equal(were[name][key], tensor) for key, tensor in were[other].items())


# start_from


@pytest.mark.parametrize("start", ["initial", "seed", None])
def test_training_begins_from_the_weights_that_start_from_names(start: str | None, tmp_path: Path) -> None:
    """With a learning rate of 0 the stage's weights are those that it began to train."""
    still = {"start_from": start, "train": {"batch_size": 2, "learning_rate": 0.0}}
    stages = [
        {"name": "seed", **STAGES["seed"]},
        {"name": "text", **STAGES["text"]},
        {"name": "more", **STAGES["text"], **still},
    ]
    run(plan(tmp_path, stages=stages), reporter=QUIET)
    last, begun = policy_for(plain()), policy_for(plain())
    last.restore(tmp_path / "stages" / "03-more" / "checkpoint")
    if start != "initial":
        begun.restore(tmp_path / "stages" / ("01-seed" if start else "02-text") / "checkpoint")
    assert_equal(state(last.module), state(begun.module))


def test_the_pairs_are_the_policys_own_and_the_reference_is_the_model_training_starts_from(
    tmp_path: Path,
) -> None:
    for name, changes in (("with", {"start_from": "initial"}), ("without", {})):
        finished(tmp_path / name, "own", {**changes, "dropout": 0.0, "log_every": 1})
    ours, theirs = (rows(tmp_path / name) for name in ("with", "without"))
    assert ours == theirs
    last = {name: list(weights(tmp_path / name).values())[-1] for name in ("with", "without")}
    assert last["with"] != last["without"]
    lines = [json.loads(line) for line in (tmp_path / "with" / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line["stage"] == "02-own")
    assert first["step"] == 1
    assert first["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert first["kl_estimate"] == pytest.approx(0, abs=1e-4)


# temporal

CHANGES = {"past": "initial", "future": True}


def sampled_by(policy: Policy, who: str, prompts: list[Prompt], num: int) -> dict[int, list[str]]:
    """What a model writes for the stage `text`, sampled anew."""
    given = CandidateSettings(**STAGES["text"]["candidates"])
    sampler = CandidateSampler(
        environment(policy).generator(),
        byte_codec(),
        num=num,
        sampling=given.sampling(),
        max_new_tokens=given.max_new_tokens or 0,
        max_seq_len=None,
        policy_name=f"text, {who}",
        seed=(0, 2, f"text, {who}"),
    )
    found = sampler.sample([(prompt, 0) for prompt in prompts])
    return {own[0].prompt_index: [each.text for each in own] for own in found}


def test_each_temporal_answer_was_written_by_the_model_it_names(tmp_path: Path) -> None:
    store = finished(tmp_path, "text", {"temporal": CHANGES})
    prompts = [Prompt(i, text, byte_codec().prompt_ids(text)) for i, text in enumerate(PROMPTS)]
    folders = {
        "present": tmp_path / "stages" / "01-seed" / "checkpoint",
        "future": tmp_path / "stages" / "02-text" / "future",
    }
    written = []
    for who in ("present", "past", "future"):
        policy = policy_for(plain())
        if who in folders:
            policy.restore(folders[who])
        expected = sampled_by(policy, who, prompts, 2)
        found: dict[int, list[str]] = {}
        for each in store.read_all(Candidate):
            if each.policy == f"text, {who}":
                found.setdefault(each.prompt_index, []).append(each.text)
        assert found == expected
        written.append(expected)
    assert written[0] != written[1] != written[2]


@pytest.mark.parametrize("future", [True, False])
@pytest.mark.parametrize("num_pairs", [None, 6])
def test_the_past_is_rejected_and_never_chosen(future: bool, num_pairs: int | None, tmp_path: Path) -> None:
    changes = {"temporal": {"past": "initial", "future": future}, "num_pairs": num_pairs}
    if num_pairs:
        changes["pairing"] = {
            "min_margin": 3.0
        }  # with a future it is led by more, so fewer visits are needed
    outcome = run(settings(tmp_path, "text", changes, seed=1), reporter=QUIET)["stages"][1]
    store = ShardStore(tmp_path / "stages" / "02-text")
    candidates = store.read_all(Candidate)
    writer = {(c.prompt_index, c.visit, c.index): c.policy for c in candidates}
    pairs = store.read_all(PreferencePair)
    assert pairs
    for pair in pairs:
        place = (pair.prompt_index, pair.visit)
        assert writer[*place, pair.rejected_index] == "text, past"
        assert writer[*place, pair.chosen_index] in ("text, present", "text, future")
        assert pair.margin is not None
        assert pair.margin > 0
    assert (tmp_path / "stages" / "02-text" / "future").exists() == future
    assert (
        outcome["yield"]["candidates"] == len(candidates) == outcome["yield"]["visits"] * (6 if future else 4)
    )
    anchored = ShardStore(tmp_path / "stages" / "02-text" / "anchored").read_all(Candidate)
    if future and num_pairs:
        assert len(anchored) / 4 > outcome["yield"]["visits"]
    distinct = {each.key: len(each.ids) for each in [*candidates, *anchored]}
    assert outcome["tokens_generated"] == sum(distinct.values()), "each answer is counted once"


def test_the_temporary_next_model_leaves_the_policy_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Tensor]] = []
    real = rewarded.train_on_pairs

    def spied(run: StageRun, *arguments: Any, **named: Any) -> Any:
        begun.append(state(run.env.policy.module))
        return real(run, *arguments, **named)

    monkeypatch.setattr(rewarded, "train_on_pairs", spied)
    finished(tmp_path, "own", {"temporal": CHANGES})
    present, future = policy_for(plain()), policy_for(plain())
    present.restore(tmp_path / "stages" / "01-seed" / "checkpoint")
    future.restore(tmp_path / "stages" / "02-own" / "future")
    (found,) = begun
    assert_equal(found, state(present.module))
    assert not all(torch.equal(found[k], v) for k, v in future.module.state_dict().items())


def test_the_temporary_next_model_too_is_trained_from_where_training_starts(tmp_path: Path) -> None:
    changes = {"temporal": CHANGES, "start_from": "initial", "train": {"batch_size": 2, "learning_rate": 0.0}}
    finished(tmp_path, "text", changes)
    future, initial = policy_for(plain()), policy_for(plain())
    future.restore(tmp_path / "stages" / "02-text" / "future")
    assert_equal(state(future.module), state(initial.module))


def test_an_adapter_has_a_past_a_future_and_a_start(tmp_path: Path) -> None:
    module = adapted()
    before = state(module)
    changes = {"temporal": CHANGES, "start_from": "initial", "train": {"batch_size": 2, "learning_rate": 0.0}}
    given = settings(tmp_path, "text", changes, model=module, tokenizer=byte_codec())
    run(given, reporter=QUIET)
    assert (tmp_path / "stages" / "02-text" / "future" / "adapter_model.safetensors").exists()
    assert_equal(state(module), before)


# consistency


def trained_with(
    folder: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **of_plan: Any
) -> tuple[ShardStore, list[float]]:
    """The stage's store, and the certainties that it trained with."""
    found: list[float] = []
    real = rewarded.train_on_pairs

    def spied(run: StageRun, pairs: Any, *arguments: Any, **named: Any) -> Any:
        found.extend(pair.certainty for pair in pairs)
        return real(run, pairs, *arguments, **named)

    monkeypatch.setattr(rewarded, "train_on_pairs", spied)
    store = finished(folder, "own", {"judge": EXPECTED, **changes}, **of_plan)
    monkeypatch.setattr(rewarded, "train_on_pairs", real)
    return store, found


def scores(store: ShardStore) -> dict[tuple[int, int], list[float]]:
    found: dict[tuple[int, int], list[float]] = {}
    for each in store.read_all(Judgment):
        assert each.score is not None
        found.setdefault((each.prompt_index, each.visit), []).append(each.score)
    return found


def test_labels_are_believed_as_far_as_both_orders_agree_and_that_changes_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = {}
    for per in ("pair", "mean"):
        changes = {"consistency": {"past": "initial", "per": per}}
        store, found = trained_with(tmp_path / per, changes, monkeypatch)
        ours, theirs = scores(store), scores(ShardStore(store.folder / "past"))
        places = [(pair.prompt_index, pair.visit) for pair in store.read_all(PreferencePair)]
        assert set(theirs) == set(places), "only visits that gave a pair are judged again"
        own = [(stats.kendalltau(ours[place], theirs[place]).statistic + 1) / 2 for place in places]
        assert len(set(own)) > 1
        mean = sum(own) / len(own)
        assert found == pytest.approx(own if per == "pair" else [mean] * len(own))
        ends[per] = list(weights(tmp_path / per).values())
    _, plainly = trained_with(tmp_path / "none", {}, monkeypatch)
    ends["none"] = list(weights(tmp_path / "none").values())
    assert set(plainly) == {1.0}
    assert ends["pair"][0] == ends["mean"][0] == ends["none"][0]
    assert len({ends[name][1] for name in ends}) == 3


def test_the_past_judge_reads_with_the_past_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = trained_with(tmp_path, {"consistency": {"past": "initial"}}, monkeypatch)
    judge = JudgeSettings(**EXPECTED).build(environment(policy_for(plain())), "own", budget=0, seed=(1,))
    past = ShardStore(store.folder / "past")
    known = {(c.prompt_index, c.visit, c.index): c for c in store.read_all(Candidate)}
    stored = past.read_all(Judgment)
    shown = [known[j.prompt_index, j.visit, j.candidate_index] for j in stored]
    prompts = [Prompt(i, text, byte_codec().prompt_ids(text)) for i, text in enumerate(PROMPTS)]
    expected = judge.judge([(prompts[each.prompt_index], each) for each in shown])
    assert [j.score for j in stored] == pytest.approx([j.score for j in expected], rel=1e-4)
    ours = {(j.prompt_index, j.visit, j.candidate_index): j.score for j in store.read_all(Judgment)}
    assert any(
        abs(j.score - ours[j.prompt_index, j.visit, j.candidate_index]) > 1e-2 for j in stored if j.score
    )


def test_a_past_self_that_is_the_present_one_believes_all_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = trained_with(tmp_path / "with", {"consistency": {"past": "seed"}}, monkeypatch)
    assert set(found) == {1.0}
    trained_with(tmp_path / "without", {}, monkeypatch)
    assert weights(tmp_path / "with") == weights(tmp_path / "without")


def test_a_past_self_that_scores_nothing_is_an_error(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    made = [Candidate(0, 0, i, (5,), "x" * i, "eos", i, "own") for i in range(3)]
    store.write(Candidate, 0, made, {})
    store.write(Judgment, 0, [Judgment(0, 0, i, float(i)) for i in range(3)], {})
    prompt = Prompt(0, "why?", (1,))
    pair = PreferencePair(0, 0, "why?", "xx", "", (1,), (5,), (6,), 2, 0, 2.0, 0.0)
    env = environment(policy_for(plain()))
    stage = StageRun(env, 2, "own", tmp_path, MetricsLog(tmp_path / "metrics.jsonl", "02-own"))
    blank = FunctionJudge(lambda prompts, responses: [None] * len(prompts))
    with pytest.raises(DataError) as error:
        label_certainties(stage, ConsistencySettings(past="initial"), [prompt], [pair], blank)
    assert "stage 'own': no visit's candidates were ranked by both judges" in str(error.value)
    assert "(the policy and 'initial', over 1 pairs)" in str(error.value)
    assert "leave consistency out" in str(error.value)


# prompts of an earlier stage


def test_prompts_come_from_the_stage_that_wrote_them(tmp_path: Path) -> None:
    env = environment(policy_for(plain()))
    source = {"made_by": "writer"}
    with pytest.raises(ConfigError, match="made by 'writer', but no such stage is finished"):
        read_prompts(env, source, "own")
    env.checkpoints["writer"] = tmp_path / "01-writer" / "checkpoint"
    with pytest.raises(ConfigError, match="'writer', but that stage writes no prompts"):
        read_prompts(env, source, "own")
    (tmp_path / "01-writer").mkdir()
    lines = [json.dumps({"prompt": text}) for text in PROMPTS]
    (tmp_path / "01-writer" / "prompts.jsonl").write_text("\n".join(lines))
    assert [prompt.text for prompt in read_prompts(env, source, "own")] == PROMPTS
    assert len(read_prompts(env, source, "own", limit=2)) == 2
    with pytest.raises(ConfigError, match=r"prompts are {'made': 'writer'}; give data, or {made_by: NAME}"):
        read_prompts(env, {"made": "writer"}, "own")


# what is refused before anything is trained

SEEN = "which is no stage before this one; known here: initial, seed"
PAIRWISE = {"template": "{{ prompt }}{{ first }}{{ second }}", "mode": "pairwise"}
PICK = {"pick": lambda rewards: (0, 1)}
CREAM = {"past": "seed"}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "start of an unknown stage": ("own", {"start_from": "sead"}, f"start_from names 'sead', {SEEN}"),
    "start of the stage itself": ("text", {"start_from": "text"}, f"start_from names 'text', {SEEN}"),
    "unknown past": ("text", {"temporal": {"past": "m0"}}, f"temporal.past names 'm0', {SEEN}"),
    "unknown past judge": ("own", {"consistency": {"past": "m0"}}, f"consistency.past names 'm0', {SEEN}"),
    "prompts of a stage that writes none": (
        "own",
        {"prompts": {"made_by": "seed"}},
        "prompts names 'seed', which is no stage before this one that writes prompts; known here: none",
    ),
    "prompts of the start": (
        "text",
        {"prompts": {"made_by": "initial"}},
        "prompts names 'initial', which is no stage before this one that writes prompts; known here: none",
    ),
    "comparisons and recycling": (
        "own",
        {"judge": PAIRWISE, "pairing": {"recycle": 1}},
        "compares all candidates of a visit at once, but pairing.recycle and temporal.future add",
    ),
    "comparisons and a future": (
        "own",
        {"judge": PAIRWISE, "temporal": {"past": "seed"}},
        "take a judge that scores, or leave those out",
    ),
    "a pick that temporal overrules": (
        "text",
        {"temporal": {"past": "seed"}, "pairing": PICK},
        "so pairing.pick would have no effect; leave one of them out",
    ),
    "length control that temporal overrules": (
        "text",
        {"temporal": {"past": "seed"}, "pairing": {"rho": 0.25}},
        "so pairing.rho 0.25 would have no effect; leave one of them out",
    ),
    "temporal and recycling": (
        "text",
        {"temporal": {"past": "seed"}, "pairing": {"recycle": 2}},
        "temporal and pairing.recycle 2 both say which further candidates a prompt gets",
    ),
    "a loss of margins": (
        "own",
        {"consistency": CREAM, "train": {"loss": "odpo"}},
        "for which odpo has no value",
    ),
    "a loss of whole steps": (
        "own",
        {"consistency": CREAM, "train": {"loss": "aot"}},
        "for which aot has no",
    ),
    "another judge": (
        "own",
        {"consistency": CREAM, "judge": {"template": TEMPLATE, "model": plain()}},
        "but judge.model names another judge, who does not change",
    ),
    "a served judge": (
        "own",
        {
            "consistency": CREAM,
            "judge": {
                "template": TEMPLATE,
                "server": {"url": "http://localhost:1/v1", "model": "m", "api_key_env": None},
            },
        },
        "but judge.server names another judge, who does not change",
    ),
    "recycling online": ("live", {"pairing": {"recycle": 1}}, "another policy would answer; leave it out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_trained(case: str, tmp_path: Path) -> None:
    name, changes, message = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        run(settings(tmp_path / "run", name, changes), reporter=QUIET)
    assert message in str(error.value)
    assert not (tmp_path / "run" / "stages").exists()


def test_comparisons_of_present_and_past_answers_alone_are_allowed(tmp_path: Path) -> None:
    """All candidates of such a visit are there before they are compared."""
    changes = {"judge": PAIRWISE, "temporal": {"past": "initial", "future": False}}
    store = finished(tmp_path, "own", changes)
    assert all(len(judgment.votes) == 2 * (2 * 3 - 1) for judgment in store.read_all(Judgment))

"""A whole run: its folder, continuing and overwriting it, checkpoints, the paper's plan, the codec."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor, nn

from self_rewarding_lm_pytorch import (
    ExternalRewardDPOConfig,
    RewardConfig,
    SelfPlayConfig,
    SelfRewardDPOConfig,
    SelfRewardingTrainer,
    SFTConfig,
    create_default_paper_config,
    create_mock_dataset,
    load_checkpoint,
)
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError, DataError, JudgeError
from tests.helpers import Script
from tests.published.worlds import (
    CPU,
    MARKER,
    Ran,
    encode,
    external,
    mean_of_response,
    metrics,
    prompts,
    run,
    same_weights,
    self_reward,
    sft_items,
    shown_whole,
    tiny,
    trainer,
    weights,
)

SFT = {"batch_size": 4, "grad_accum_steps": 1, "num_epochs": 1, "start_learning_rate": 0.01}
PLAY = {"batch_size": 4, "grad_accum_steps": 1, "start_learning_rate": 0.01}


def sft(**arguments: Any) -> SFTConfig:
    return SFTConfig(train_dataset=sft_items(4), trainer_kwargs=SFT, **arguments)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


# Stages in any order, and their checkpoints


def test_stages_run_in_any_order_and_each_leaves_its_checkpoint(tmp_path: Path) -> None:
    configs = [
        SelfPlayConfig(sft_items(4), max_seq_len=8, trainer_kwargs=PLAY),
        external(),
        sft(),
        self_reward(Script(b"Score: ?")),
        external(),
    ]
    done = run(tiny(), configs, tmp_path, self_reward_prompt_config=shown_whole())
    assert names(tmp_path) == [
        "1.spin.safetensors",
        "2.external_reward.safetensors",
        "3.sft.safetensors",
        "4.self_reward.safetensors",
        "5.external_reward.safetensors",
    ]
    assert [stage["kind"] for stage in done.summary["stages"]] == [n.split(".")[1] for n in names(tmp_path)]
    assert done.summary["status"] == "completed"
    saved = [load_file(tmp_path / name)["to_logits.weight"] for name in names(tmp_path)]
    assert all(not torch.equal(a, b) for a, b in pairwise(saved))


def test_the_model_passed_in_holds_the_final_weights(tmp_path: Path) -> None:
    model = tiny()
    done = run(model, [sft(), external()], tmp_path)
    assert done.model is model
    assert not same_weights(model, tiny())
    saved = tiny(seed=9)
    load_checkpoint(saved, tmp_path / "2.external_reward.safetensors")
    assert same_weights(model, saved)


def test_each_stage_starts_from_the_one_before(tmp_path: Path) -> None:
    one = run(tiny(), [sft()], tmp_path / "one").model
    run(tiny(), [sft(), sft()], tmp_path / "two")
    first = tiny(seed=9)
    load_checkpoint(first, tmp_path / "two" / "1.sft.safetensors")
    assert same_weights(first, one)


def test_the_same_call_twice_gives_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = run(tiny(), [sft(), external()], tmp_path / "a").model
    torch.manual_seed(2)
    second = run(tiny(), [sft(), external()], tmp_path / "b").model
    assert same_weights(first, second)


def test_the_default_folder_is_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = SelfRewardingTrainer(
        tiny(), finetune_configs=[sft()], tokenizer_encode=encode, tokenizer_decode=str, accelerate_kwargs=CPU
    )
    made()
    assert names(tmp_path / "checkpoints") == ["1.sft.safetensors"]


# Continuing and overwriting


class FailsAt:
    """A reward that raises at the given call, once; afterwards it is a plain reward."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, ids: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("the reward model is away")
        return mean_of_response(ids)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_unfinished_run_is_continued_to_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, call: int
) -> None:
    def configs(reward: Any) -> list[Any]:
        return [sft(), external(reward, num_generated_preference_pairs=6, num_train_steps=2), sft()]

    whole = run(tiny(), configs(FailsAt(0)), tmp_path / "whole")
    reward, folder = FailsAt(call), tmp_path / "cut"
    with pytest.raises(JudgeError, match="away"):
        trainer(tiny(), configs(reward), folder)()
    assert names(folder) == ["1.sft.safetensors"]
    before = (folder / "1.sft.safetensors").stat().st_mtime_ns
    model = tiny()
    done = trainer(model, configs(reward), folder)(overwrite_checkpoints=False)
    assert done["status"] == "completed"
    assert same_weights(model, whole.model)
    assert (folder / "1.sft.safetensors").stat().st_mtime_ns == before


def test_a_run_cut_off_while_training_is_continued_on_the_items_it_had_read(tmp_path: Path) -> None:
    """The mock data set would make other items; those that were read are kept with the run."""
    calls = []

    def evaluate(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no more memory")
        return float(len(calls))

    def configs() -> list[Any]:
        random_items = create_mock_dataset(4, lambda: (torch.randint(0, 256, (10,)), torch.tensor(3)))
        kwargs = {"check_early_stop_every": 1}
        return [
            SFTConfig(train_dataset=random_items, trainer_kwargs=SFT),
            external(early_stopper_eval_module=evaluate, num_train_steps=2, trainer_kwargs=kwargs),
        ]

    with pytest.raises(RuntimeError, match="memory"):
        trainer(tiny(), configs(), tmp_path)()
    first = load_file(tmp_path / "1.sft.safetensors")
    candidates = tmp_path / "stages" / "02-external_reward" / "candidates" / "00000.parquet"
    before = candidates.read_bytes()
    model = tiny()
    trainer(model, configs(), tmp_path)()
    assert candidates.read_bytes() == before
    again = load_file(tmp_path / "1.sft.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_finished_run_is_refused_before_any_training(tmp_path: Path) -> None:
    trainer(tiny(), [sft()], tmp_path)()
    model = tiny()
    with pytest.raises(CheckpointError, match=r"finished run(?s:.*)overwrite_checkpoints=True"):
        trainer(model, [sft()], tmp_path)()
    assert same_weights(model, tiny())


def test_overwriting_starts_afresh_from_the_models_own_weights(tmp_path: Path) -> None:
    run(tiny(), [sft(), external(), sft()], tmp_path)
    other = tiny(seed=5)
    run(other, [sft()], tmp_path)
    assert names(tmp_path) == ["1.sft.safetensors"]
    assert same_weights(other, run(tiny(seed=5), [sft()], tmp_path / "new").model)


def test_a_run_of_another_plan_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    with pytest.raises(JudgeError):
        trainer(tiny(), [external(FailsAt(1))], tmp_path)()
    with pytest.raises(ConfigError, match="another plan"):
        trainer(tiny(), [external(FailsAt(0), max_seq_len=7)], tmp_path)()


def test_overwriting_leaves_the_users_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    run(tiny(), [sft()], tmp_path)
    run(tiny(), [sft()], tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


# load_checkpoint


def test_checkpoints_load_from_the_file_the_stage_and_the_published_pt(tmp_path: Path) -> None:
    done = run(tiny(), [sft()], tmp_path)
    torch.save({"model": done.model.state_dict()}, tmp_path / "old.pt")
    torch.save(done.model.state_dict(), tmp_path / "bare.pt")
    for place in ("1.sft.safetensors", "stages/01-sft", "stages/01-sft/checkpoint", "old.pt", "bare.pt"):
        loaded = tiny(seed=7)
        load_checkpoint(loaded, tmp_path / place)
        assert same_weights(loaded, done.model), place


class _Code:
    def __reduce__(self) -> Any:
        return print, ("this ran",)


def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": _Code()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Code()))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(CheckpointError):
            load_checkpoint(tiny(), tmp_path / name)
    assert "this ran" not in capsys.readouterr().out


def test_a_checkpoint_that_does_not_fit_or_exist_is_an_error_in_words(tmp_path: Path) -> None:
    run(tiny(), [sft()], tmp_path)
    with pytest.raises(CheckpointError, match=r"other shapes: .*32"):
        load_checkpoint(tiny(dim=32), tmp_path / "1.sft.safetensors")
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        load_checkpoint(tiny(), tmp_path / "2.sft.safetensors")
    torch.save({"model": {"to_logits.weight": torch.zeros(256, 16)}}, tmp_path / "part.pt")
    model = tiny()
    with pytest.raises(CheckpointError, match="missing: "):
        load_checkpoint(model, tmp_path / "part.pt")
    assert same_weights(model, tiny())


# The paper's plan


def paper(**arguments: Any) -> list[Any]:
    given = {"train_sft_dataset": sft_items(4), "self_reward_prompt_dataset": prompts(), **arguments}
    return create_default_paper_config(**given)


def test_the_default_paper_plan_carries_the_papers_numbers(tmp_path: Path) -> None:
    made = trainer(tiny(640), paper(), tmp_path)
    first, second, third = made._plan.stages
    assert (first.kind, second.kind, third.kind) == ("sft", "self_reward", "self_reward")
    assert (first.train.learning_rate, first.train.end_learning_rate) == (5.5e-6, 1.1e-6)
    assert (first.train.batch_size, first.train.dropout, first.train.epochs) == (16, 0.1, 3)
    assert (second.num_pairs, third.num_pairs) == (3964, 6942)
    for stage in (second, third):
        train, judge = stage.train, stage.judge
        assert (train.learning_rate, train.end_learning_rate) == (1e-6, 1e-7)
        assert (train.batch_size, train.dropout, train.beta, train.loss) == (16, 0.1, 0.1, "dpo")
        assert (stage.candidates.num, judge.votes, judge.unparsed) == (4, 3, "force")
        for sampling in (stage.candidates.sampling(), judge.sampling()):
            logits = torch.log(torch.tensor([[0.6, 0.29, 0.06, 0.05]]))
            kept = sampling.filter_fn(logits, **sampling.filter_kwargs).isfinite()
            assert sampling.temperature == 0.7
            assert kept.tolist() == [[True, True, True, False]]  # the fewest that sum to 0.9


def test_the_papers_batch_is_16_whatever_the_passes(tmp_path: Path) -> None:
    config = {"trainer_kwargs": {"num_epochs": 1}}
    run(tiny(), paper(train_sft_dataset=sft_items(17), sft_config=config)[:1], tmp_path)
    assert metrics(tmp_path)[-1]["step"] == 2


def test_its_arguments_reach_the_stages(tmp_path: Path) -> None:
    def stop(model: nn.Module) -> float:
        return 0.0

    own = (prompts(), prompts(3))
    made = paper(
        self_reward_prompt_dataset=own,
        valid_sft_dataset=sft_items(2),
        num_generated_preference_pairs=(5, 7),
        early_stopper_eval_module=stop,
        dpo_num_train_steps=9,
        sft_config={"dropout": 0.2},
        self_reward_config={"num_candidate_responses": 6, "trainer_kwargs": {"batch_size": 2}},
    )
    assert (made[0].dropout, len(made[0].valid_dataset)) == (0.2, 2)
    assert [config.prompt_dataset for config in made[1:]] == list(own)
    assert [config.num_generated_preference_pairs for config in made[1:]] == [5, 7]
    for config in made[1:]:
        assert config.early_stopper_eval_module is stop
        assert (config.num_train_steps, config.num_candidate_responses) == (9, 6)
        assert config.trainer_kwargs["batch_size"] == 2


def test_a_dictionary_of_configs_is_the_papers_plan_and_runs(tmp_path: Path) -> None:
    configs = {
        "train_sft_dataset": sft_items(4),
        "self_reward_prompt_dataset": prompts(),
        "num_generated_preference_pairs": (2, 2),
        "dpo_num_train_steps": 1,
        "self_reward_config": {
            "max_seq_len": 6,
            "rewarding_model": Script(b"Score: ?"),
            "reward_generator_kwargs": {"batch_size": 2, "generate_reward_max_seq_len": 8},
        },
    }
    run(tiny(), configs, tmp_path, self_reward_prompt_config=shown_whole())
    assert names(tmp_path) == ["1.sft.safetensors", "2.self_reward.safetensors", "3.self_reward.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_dataset": 1}, "finetune_configs 'train_dataset'; known: .*train_sft_dataset"),
        ({"sft_config": {"drop": 1}}, "sft_config 'drop'; known: dropout"),
        ({"self_reward_config": {"votes": 1}}, "self_reward_config 'votes'; known: .*num_sampled"),
    ],
)
def test_unknown_keys_of_the_dictionary_list_the_known_ones(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    configs = {"train_sft_dataset": sft_items(2), "self_reward_prompt_dataset": prompts(), **arguments}
    with pytest.raises(ConfigError, match=message):
        trainer(tiny(), configs, tmp_path)


def test_unknown_keys_for_accelerate_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'cpus'; known: .*cpu"):
        trainer(tiny(), [sft()], tmp_path, accelerate_kwargs={"cpus": True})


@pytest.fixture
def _new_accelerate_state() -> Iterator[None]:
    """accelerate keeps one state for a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_new_accelerate_state")
def test_accelerate_kwargs_reach_accelerate(tmp_path: Path) -> None:
    """bf16 forward passes round; float32 ones do not round so coarsely."""
    run(tiny(), [sft(dropout=0.0)], tmp_path / "full")
    AcceleratorState._reset_state(reset_partial_state=True)
    run(tiny(), [sft(dropout=0.0)], tmp_path / "half", accelerate_kwargs={**CPU, "mixed_precision": "bf16"})
    full, half = (metrics(tmp_path / name)[-1]["loss"] for name in ("full", "half"))
    assert full != half
    assert full == pytest.approx(half, rel=0.02)


# The codec


def test_an_encoder_may_return_floats(tmp_path: Path) -> None:
    config = {"self_reward_prompt_config": shown_whole()}
    plain, floats = (
        run(tiny(), [self_reward(Script(b"Score: ?"))], tmp_path / name, tokenizer_encode=function, **config)
        for name, function in (("a", encode), ("b", lambda text: Tensor([ord(char) for char in text])))
    )
    assert same_weights(plain.model, floats.model)


def test_an_encoder_may_return_a_list(tmp_path: Path) -> None:
    done = run(tiny(), [external()], tmp_path, tokenizer_encode=lambda text: [ord(char) for char in text])
    assert done.stage["num_pairs"] == 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda text: torch.tensor([300]), "300, outside the vocabulary .*0 to 255"),
        (lambda text: torch.tensor([-1]), "-1, outside the vocabulary"),
        (lambda text: torch.tensor([0.5]), "not whole numbers: 0.5"),
        (lambda text: torch.tensor([[1, 2]]), "one row of ids"),
    ],
)
def test_ids_that_the_model_cannot_read_are_an_error_before_any_training(
    tmp_path: Path, function: Any, message: str
) -> None:
    model = tiny()
    with pytest.raises((DataError, ConfigError), match=message):
        run(model, [sft(), external()], tmp_path, tokenizer_encode=function)
    assert same_weights(model, tiny())


def test_the_decoder_always_gets_one_row_of_integers_on_the_cpu(tmp_path: Path) -> None:
    seen: set[tuple[Any, ...]] = set()

    def look(ids: Tensor) -> str:
        seen.add((ids.dtype, ids.ndim, ids.device.type))
        return "".join(chr(token) for token in ids)

    config = {"self_reward_prompt_config": shown_whole(), "tokenizer_decode": look}
    run(tiny(), [external(), self_reward(Script(b"Score: ?"))], tmp_path, **config)
    assert seen == {(torch.int64, 1, "cpu")}


def test_what_is_decoded_is_what_is_stored_and_judged(tmp_path: Path) -> None:
    config = RewardConfig(prompt_template="{{ prompt }}{{ response }}" + MARKER)
    done = run(
        tiny(), [self_reward(Script(b"Score: ?"))], tmp_path, self_reward_prompt_config=config,
        tokenizer_decode=lambda ids: "".join(chr(max(32, token)) for token in ids),
    )  # fmt: skip
    assert isinstance(done, Ran)
    for candidate in done.records("01-self_reward").candidates:
        assert candidate.text == "".join(chr(max(32, token)) for token in candidate.ids)


def test_configs_may_be_given_by_position() -> None:
    assert SFTConfig("data", "valid", 0.2).dropout == 0.2
    assert SelfRewardDPOConfig("prompts", 5, 0.3, 64).max_seq_len == 64
    reward = ExternalRewardDPOConfig(mean_of_response, "prompts", 5)
    assert (reward.reward_model, reward.num_generated_preference_pairs) == (mean_of_response, 5)
    assert SelfPlayConfig("data", None, 32, 0.2).spin_λ == 0.2


def test_an_empty_prompt_set_is_an_error_before_any_training(tmp_path: Path) -> None:
    model = tiny()
    with pytest.raises(ConfigError, match="prompt set is empty"):
        run(model, [sft(), external(prompt_dataset=[])], tmp_path)
    assert torch.equal(weights(model), weights(tiny()))


@pytest.mark.parametrize(
    ("configs", "words"), [([], "is empty; give a list"), (sft(), r"is one SFTConfig; .* as \[SFTConfig")]
)
def test_configs_come_as_a_list_of_at_least_one(configs: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        trainer(tiny(), configs, tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: external(gen_temperature=-1), r"ExternalRewardDPOConfig .*candidates\.temperature=-1"),
        (lambda: external(num_candidate_responses=1), r"candidates\.num=1"),
        (lambda: sft(dropout=2.0), r"SFTConfig .*dropout=2\.0"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_config(config: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        trainer(tiny(), [config()], tmp_path)


@pytest.mark.parametrize("eos_id", [-1, 10_000, "a", 3.5, True])
def test_an_end_of_sequence_that_no_token_can_be_is_refused(eos_id: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"eos_id is {eos_id!r}, which no token of the model has"):
        trainer(tiny(), [sft()], tmp_path, eos_id=eos_id)


def test_a_model_without_an_end_of_sequence_is_not_blamed_for_never_ending(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = external(num_generated_preference_pairs=16, num_candidate_responses=4)
    for name, eos_id in (("without", None), ("with", 255)):
        trainer(tiny(), [many], tmp_path / name, eos_id=eos_id)()
    said = [(tmp_path / name / "alarms.jsonl").is_file() for name in ("without", "with")]
    assert said == [False, True]

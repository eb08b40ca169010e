"""Self-play: the opponent is frozen, its samples are the rejected side, the data set's the chosen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from self_rewarding_lm_pytorch import (
    SPIN,
    SelfPlayConfig,
    SPINTrainer,
    create_mock_dataset,
    load_checkpoint,
    top_k,
)
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError, DataError
from self_rewarding_lm_pytorch.records import Candidate
from tests.published.test_dpo_trainer import loss_of
from tests.published.worlds import (
    CPU,
    metrics,
    run,
    same_weights,
    sft_items,
    summary,
    tiny,
    trainer,
    weights,
)

FAST: dict[str, Any] = {"batch_size": 4, "grad_accum_steps": 1, "start_learning_rate": 0.01, "epochs": 1}


def played(folder: Path, *, model: Any = None, items: Any = None, **arguments: Any) -> nn.Module:
    items = sft_items(4) if items is None else items
    given = {**FAST, "max_seq_len": 8, "checkpoint_folder": folder, "accelerate_kwargs": CPU, **arguments}
    made = SPINTrainer(tiny() if model is None else model, train_sft_dataset=items, **given)
    made()
    return made.model


def opponents(folder: Path, part: str = "data") -> list[Candidate]:
    return ShardStore(folder / "stages" / "01-spin" / f"iteration-1-{part}").read_all(Candidate)


def as_pairs(items: Any, answers: list[Candidate], length: int = 3) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(data set's row, prompt + the opponent's answer, prompt length)"""
    return [
        (ids, torch.cat((ids[:length], torch.tensor(answer.ids))), torch.tensor(length))
        for (ids, _), answer in zip(items, answers, strict=True)
    ]


def test_it_raises_the_data_sets_responses_over_the_opponents(tmp_path: Path) -> None:
    items = sft_items(4)
    model = played(tmp_path, items=items, epochs=20)
    assert loss_of(model, tiny(), as_pairs(items, opponents(tmp_path))) < math.log(2) - 0.2


def test_the_first_loss_is_ln_2(tmp_path: Path) -> None:
    played(tmp_path)
    assert metrics(tmp_path)[-1]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_the_opponent_samples_as_it_stood_before_any_training(tmp_path: Path) -> None:
    """At temperature 0 its answers are the start weights' own argmax, after 20 passes too."""
    items = sft_items(4)
    trained = played(tmp_path, items=items, epochs=20, temperature=0.0)
    start, differ = tiny(), 0
    for (ids, _), answer in zip(items, opponents(tmp_path), strict=True):
        for model in (start, trained):
            greedy = ids[:3]
            for _ in range(5):
                greedy = torch.cat((greedy, model(greedy[None])[0, -1].argmax(keepdim=True)))
            if model is start:
                assert answer.ids == tuple(greedy[3:].tolist())
            differ += answer.ids != tuple(greedy[3:].tolist())
    assert differ > 0


def test_max_seq_len_bounds_the_opponent_and_the_target_stays_whole(tmp_path: Path) -> None:
    items = [(ids, torch.tensor(2 + i)) for i, (ids, _) in enumerate(sft_items(4, length=20))]
    played(tmp_path, items=items, max_seq_len=9, valid_sft_dataset=items)
    answers = opponents(tmp_path)
    assert [len(answer.ids) for answer in answers] == [7, 6, 5, 4]
    chosen = [(ids, int(length)) for ids, length in items]
    # At a rate of zero nothing moves, so the reported log-prob per token is the start model's, over
    # the whole target and not over the first 9 positions.
    played(tmp_path / "still", items=items, max_seq_len=9, start_learning_rate=0.0, end_learning_rate=0.0)
    per_token = []
    for ids, length in chosen:
        logs = tiny()(ids[None])[0].log_softmax(dim=-1)
        per_token.append(logs[length - 1 : -1].gather(1, ids[length:, None]).mean().item())
    reported = metrics(tmp_path / "still")[-1]["chosen_logprob_per_token"]
    assert reported == pytest.approx(sum(per_token) / 4, abs=1e-4)


def test_a_prompt_as_long_as_max_seq_len_gives_no_pair(tmp_path: Path) -> None:
    items = [*sft_items(3, prompt=3), *sft_items(1, prompt=8, seed=4)]
    played(tmp_path, items=items)
    stage = summary(tmp_path)["stages"][0]
    assert stage["num_pairs"] == 3
    assert stage["yield"]["skipped"] == {"no room for the opponent's response": 1}
    with pytest.raises(DataError, match="none of 1 items gave a pair"):
        played(tmp_path / "none", items=sft_items(1, prompt=8))


def test_temperature_and_filter_act_on_the_opponent(tmp_path: Path) -> None:
    def answers(name: str, **arguments: Any) -> list[tuple[int, ...]]:
        played(tmp_path / name, **arguments)
        return [answer.ids for answer in opponents(tmp_path / name)]

    default = answers("default")
    assert default == answers("same", temperature=0.7, filter_kwargs={"thres": 0.9})
    assert default != answers("hot", temperature=3.0)
    greedy = answers("greedy", temperature=0.0)
    assert greedy != default
    assert greedy == answers("top-k", filter_fn=top_k, filter_kwargs={"k": 1})
    assert greedy == answers("top-p", filter_kwargs={"thres": 1e-9})
    assert default != answers("all", filter_fn=None)


def test_an_eos_id_ends_the_opponents_answers(tmp_path: Path) -> None:
    def often(logits: Tensor) -> Tensor:
        return torch.full_like(logits, -torch.inf).index_fill(1, torch.tensor([7, 65]), 0.0)

    played(tmp_path / "with", filter_fn=often, eos_id=7, items=sft_items(12), max_seq_len=6)
    answers = opponents(tmp_path / "with")
    assert {answer.finish_reason for answer in answers} == {"eos", "length"}
    assert all((a.finish_reason == "eos") == (a.ids[-1] == 7) for a in answers)
    played(tmp_path / "without", filter_fn=often)
    assert {(a.finish_reason, len(a.ids)) for a in opponents(tmp_path / "without")} == {("length", 5)}


def test_epochs_and_batches_make_the_steps(tmp_path: Path) -> None:
    played(tmp_path / "a", items=sft_items(6), epochs=3)
    assert metrics(tmp_path / "a")[-1]["step"] == 6
    made = SPINTrainer(
        tiny(), train_sft_dataset=sft_items(33), max_seq_len=8, checkpoint_folder=tmp_path / "b",
        accelerate_kwargs=CPU,
    )  # fmt: skip
    made()
    assert metrics(tmp_path / "b")[-1]["step"] == 2 * 2  # 2 epochs of ceil(33 / 32) steps


def test_accumulated_passes_make_one_step(tmp_path: Path) -> None:
    items = sft_items(6)
    whole = played(tmp_path / "a", items=items, batch_size=6)
    split = played(tmp_path / "b", items=items, batch_size=2, grad_accum_steps=3)
    assert torch.allclose(weights(whole), weights(split), atol=1e-4)


def test_rates_decay_dropout_and_adam_kwargs_act(tmp_path: Path) -> None:
    rates = {"end_learning_rate": 0.004, "learning_rate_num_decay_steps": 2, "epochs": 3}
    played(tmp_path / "a", **rates)
    assert metrics(tmp_path / "a")[-1]["learning_rate"] == pytest.approx(0.004)
    plain, decayed = played(tmp_path / "b"), played(tmp_path / "c", weight_decay=0.5)
    name = "to_logits.weight"
    difference = decayed.state_dict()[name] - plain.state_dict()[name]
    assert torch.allclose(difference, -0.01 * 0.5 * tiny().state_dict()[name], atol=1e-6)
    assert not same_weights(plain, played(tmp_path / "d", dropout=0.5))
    assert same_weights(plain, played(tmp_path / "e", dropout=0.0))
    still = played(tmp_path / "f", adam_kwargs={"eps": 1e9})
    assert torch.allclose(weights(still), weights(tiny()), atol=1e-6)


def test_the_default_rates_are_1e_6_falling_to_1e_7_in_1000_steps(tmp_path: Path) -> None:
    given = {key: value for key, value in FAST.items() if key != "start_learning_rate"}
    given |= {"epochs": 10, "max_seq_len": 8, "checkpoint_folder": tmp_path, "accelerate_kwargs": CPU}
    SPINTrainer(tiny(), train_sft_dataset=sft_items(4), **given)()
    expected = 1e-7 + 9e-7 * (1 + math.cos(math.pi * 9 / 1000)) / 2
    assert metrics(tmp_path)[-1]["learning_rate"] == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kwargs", [{"λ": 0.4}, {"beta": 0.4}, {"spin_λ": 0.4}])
def test_lambda_scales_the_margin_under_every_spelling(tmp_path: Path, kwargs: dict[str, float]) -> None:
    played(tmp_path / "a", epochs=2, spin_kwargs=kwargs)
    played(tmp_path / "b", epochs=2)
    ratio = metrics(tmp_path / "a")[-1]["margin"] / metrics(tmp_path / "b")[-1]["margin"]
    assert ratio == pytest.approx(4, rel=0.02)  # Adam's first step does not know the gradient's size


@pytest.mark.parametrize(
    "arguments", [{"ref_model_ema_decay": 0.0}, {"spin_kwargs": {"ref_model_ema_decay": 0.0}}]
)
def test_the_references_decay_acts(tmp_path: Path, arguments: dict[str, Any]) -> None:
    played(tmp_path / "following", epochs=10, **arguments)
    played(tmp_path / "frozen", epochs=10)
    assert metrics(tmp_path / "following")[-1]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert metrics(tmp_path / "frozen")[-1]["loss"] < math.log(2) - 0.01


def test_validation_is_against_the_opponents_answers_to_the_valid_items(tmp_path: Path) -> None:
    valid = sft_items(3, seed=5)
    model = played(tmp_path, valid_sft_dataset=valid, valid_every=2, epochs=4, dropout=0.3)
    lines = [line for line in metrics(tmp_path) if "valid_loss" in line]
    assert {line["step"] for line in lines} == {2, 4}
    expected = loss_of(model, tiny(), as_pairs(valid, opponents(tmp_path, "valid")))
    assert lines[-1]["valid_loss"] == pytest.approx(expected, abs=1e-4)


def test_negative_padding_is_cut_and_other_padding_needs_a_mask(tmp_path: Path) -> None:
    items = sft_items(4)
    padded = [(torch.cat((ids, torch.full((4,), -1))), length) for ids, length in items]
    assert same_weights(played(tmp_path / "a", items=padded), played(tmp_path / "b", items=items))
    zeros = [(torch.cat((ids, torch.zeros(4, dtype=torch.int64))), length) for ids, length in items]
    with pytest.raises(DataError, match="item 0 ends with pad_id 0"):
        played(tmp_path / "c", items=zeros, pad_id=0)


def test_a_prompt_mask_is_as_good_as_a_length(tmp_path: Path) -> None:
    items = sft_items(4)
    masked = [(ids, torch.arange(len(ids)) < 3) for ids, _ in items]
    assert same_weights(played(tmp_path / "a", items=masked), played(tmp_path / "b", items=items))


def test_items_are_read_once(tmp_path: Path) -> None:
    made = []

    def item() -> Any:
        made.append(1)
        return torch.randint(0, 256, (10,)), torch.tensor(3)

    played(tmp_path, items=create_mock_dataset(5, item), epochs=3)
    assert len(made) == 5


def test_it_saves_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    model = played(tmp_path, items=sft_items(8), epochs=5, checkpoint_every=4)  # 10 steps
    found = sorted(path.name for path in (tmp_path / "stages" / "01-spin" / "steps").iterdir())
    assert found == ["000004", "000008"]
    early, late = tiny(seed=3), tiny(seed=4)
    load_checkpoint(early, tmp_path / "stages" / "01-spin" / "steps" / "000004")
    load_checkpoint(late, tmp_path / "1.spin.safetensors")
    assert same_weights(late, model)
    assert not same_weights(early, model)


def test_without_checkpoint_every_it_saves_at_the_end_alone(tmp_path: Path) -> None:
    played(tmp_path)
    assert not (tmp_path / "stages" / "01-spin" / "steps").exists()
    assert (tmp_path / "1.spin.safetensors").exists()


def test_the_default_folder_is_spin_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SPINTrainer(tiny(), train_sft_dataset=sft_items(2), max_seq_len=8, accelerate_kwargs=CPU)()
    assert (tmp_path / "spin-checkpoints" / "1.spin.safetensors").exists()


def test_calling_it_again_starts_afresh_unless_told_otherwise(tmp_path: Path) -> None:
    given = {**FAST, "max_seq_len": 8, "checkpoint_folder": tmp_path, "accelerate_kwargs": CPU}
    made = SPINTrainer(tiny(), train_sft_dataset=sft_items(4), **given)
    made()
    once = weights(made.model)
    made()
    assert not torch.equal(weights(made.model), once)
    twice = weights(made.model)
    with pytest.raises(CheckpointError, match="holds a finished run"):
        made(overwrite_checkpoints=False)
    assert torch.equal(weights(made.model), twice)


def test_a_spin_modules_reference_is_the_runs_first_weights_after_it_was_cut_off_too(tmp_path: Path) -> None:
    given = {**FAST, "max_seq_len": 8, "checkpoint_folder": tmp_path, "accelerate_kwargs": CPU}
    items, calls = sft_items(4), list[int]()

    def fails_once(logits: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return logits

    spin = SPIN(tiny())
    made = SPINTrainer(spin, train_sft_dataset=items, filter_fn=fails_once, **given)
    with pytest.raises(KeyboardInterrupt):
        made()
    with torch.no_grad():
        next(spin.policy_model.parameters()).add_(1.0)  # as far as it had been trained
    made(overwrite_checkpoints=False)
    assert same_weights(spin.ref_model, tiny())
    assert not same_weights(spin.policy_model, tiny())


def test_a_spin_module_brings_its_lambda_and_decay(tmp_path: Path) -> None:
    spin = SPIN(tiny(), λ=0.4, ref_model_ema_decay=0.0)
    model = played(tmp_path / "a", model=spin, epochs=2)
    assert model is spin.policy_model
    same = played(tmp_path / "b", epochs=2, spin_kwargs={"λ": 0.4}, ref_model_ema_decay=0.0)
    assert same_weights(model, same)
    overruled = played(tmp_path / "c", model=SPIN(tiny(), λ=0.4), epochs=2, spin_kwargs={"beta": 0.1})
    assert same_weights(overruled, played(tmp_path / "d", epochs=2))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("spin_kwargs", {"lamda": 1}, "'lamda'; known: .*λ"),
        ("adam_kwargs", {"beta": 1}, "'beta'; known: .*betas"),
        ("filter_kwargs", {"k": 1}, "'k'; known: thres"),
        ("accelerate_kwargs", {"cpus": 1}, "'cpus'; known: .*cpu"),
    ],
)
def test_unknown_keys_list_the_known_ones(tmp_path: Path, argument: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        played(tmp_path, **{argument: value})
    assert not list(tmp_path.iterdir())


def test_an_accelerator_of_the_users_own_is_used(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    steps = []
    original = accelerator.backward
    accelerator.backward = lambda loss: (steps.append(1), original(loss))  # type: ignore[method-assign]
    played(tmp_path, accelerator=accelerator, accelerate_kwargs={}, epochs=2)
    assert len(steps) == 2


# SelfPlayConfig: the same as a stage


def staged(folder: Path, *, kwargs: Any = None, items: Any = None, **arguments: Any) -> Any:
    given = {"max_seq_len": 8, "dropout": 0.0, **arguments}
    config = SelfPlayConfig(
        train_dataset=sft_items(4) if items is None else items,
        trainer_kwargs={**FAST, **(kwargs or {})},
        **given,
    )
    return run(tiny(), [config], folder)


def test_the_stage_does_what_the_trainer_does(tmp_path: Path) -> None:
    kwargs = {"weight_decay": 0.1, "adam_kwargs": {"betas": (0.5, 0.9)}, "epochs": 3}
    stage = staged(tmp_path / "a", kwargs=kwargs, temperature=0.5, filter_kwargs={"thres": 0.8})
    alone = played(tmp_path / "b", **kwargs, temperature=0.5, filter_kwargs={"thres": 0.8})
    assert same_weights(stage.model, alone)


def test_the_stages_trainer_kwargs_act(tmp_path: Path) -> None:
    staged(tmp_path / "a", kwargs={"epochs": 3, "batch_size": 2, "end_learning_rate": 0.002,
                                   "learning_rate_num_decay_steps": 2, "checkpoint_every": 4})  # fmt: skip
    last = metrics(tmp_path / "a")[-1]
    assert (last["step"], last["learning_rate"]) == (6, pytest.approx(0.002))
    assert (tmp_path / "a" / "stages" / "01-spin" / "steps" / "000004").is_dir()
    with pytest.raises(ConfigError, match=r"'epoch'; known: .*epochs"):
        staged(tmp_path / "b", kwargs={"epoch": 3})


def test_the_stages_default_is_two_epochs_with_a_dropout_of_a_tenth(tmp_path: Path) -> None:
    given = {"train_dataset": sft_items(4), "max_seq_len": 8}
    default = run(tiny(), [SelfPlayConfig(**given, trainer_kwargs={"batch_size": 4, "grad_accum_steps": 1})],
                  tmp_path / "a")  # fmt: skip
    assert metrics(tmp_path / "a")[-1]["step"] == 2
    tenth = staged(tmp_path / "b", dropout=0.1, kwargs={"epochs": 2, "start_learning_rate": 1e-6})
    none = staged(tmp_path / "c", dropout=0.0, kwargs={"epochs": 2, "start_learning_rate": 1e-6})
    assert same_weights(default.model, tenth.model)
    assert not same_weights(default.model, none.model)


@pytest.mark.parametrize(
    "spelling",
    [
        {"spin_λ": 0.4},
        {"beta": 0.4},
        {"spin_kwargs": {"λ": 0.4}},
        {"spin_kwargs": {"beta": 0.4}},
        {"kwargs": {"spin_kwargs": {"λ": 0.4}}},
    ],
)
def test_the_stages_lambda_has_many_spellings(tmp_path: Path, spelling: dict[str, Any]) -> None:
    own = {**spelling, "kwargs": {"epochs": 2, **spelling.get("kwargs", {})}}
    staged(tmp_path / "a", **own)
    staged(tmp_path / "b", kwargs={"epochs": 2})
    ratio = metrics(tmp_path / "a")[-1]["margin"] / metrics(tmp_path / "b")[-1]["margin"]
    assert ratio == pytest.approx(4, rel=0.02)


def test_the_stages_valid_data_and_lists_of_data_sets(tmp_path: Path) -> None:
    parts = [create_mock_dataset(2, sft_items(1)[0]), create_mock_dataset(3, sft_items(1, seed=8)[0])]
    done = staged(
        tmp_path, items=parts, valid_dataset=sft_items(2, seed=5), kwargs={"valid_every": 1, "epochs": 2}
    )
    assert done.stage["num_pairs"] == 5
    assert {line["step"] for line in metrics(tmp_path) if "valid_loss" in line} == {1, 2, 3, 4}


def test_each_self_play_stage_has_the_policy_so_far_as_its_opponent(tmp_path: Path) -> None:
    config = SelfPlayConfig(
        train_dataset=sft_items(4), max_seq_len=8, dropout=0.0, temperature=0.0,
        trainer_kwargs={**FAST, "epochs": 20},
    )  # fmt: skip
    run(tiny(), [config, config], tmp_path)
    folders = [tmp_path / "stages" / name / "iteration-1-data" for name in ("01-spin", "02-spin")]
    first, second = (ShardStore(folder).read_all(Candidate) for folder in folders)
    middle = tiny()
    load_checkpoint(middle, tmp_path / "1.spin.safetensors")
    for model, answers in ((tiny(), first), (middle, second)):
        for (ids, _), answer in zip(sft_items(4), answers, strict=True):
            assert answer.ids[0] == int(model(ids[None, :3])[0, -1].argmax())


def test_a_stage_of_the_dictionary_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finetune_configs holds str"):
        trainer(tiny(), ["sft"], tmp_path)


def test_a_stage_may_play_several_iterations_each_with_the_answers_of_the_one_before(tmp_path: Path) -> None:
    done = staged(tmp_path, num_iterations=2, kwargs={"batch_size": 1})
    assert done.stage["num_pairs"] == 8
    assert done.stage["metrics"]["mixed_pairs"] == 4
    assert done.stage["metrics"]["num_steps"] == 8, "4 pairs of its own, 4 of the first iteration"
    folder = tmp_path / "stages" / "01-spin"
    found = [ShardStore(folder / f"iteration-{i}-data").read_all(Candidate) for i in (1, 2)]
    assert [len(answers) for answers in found] == [4, 4]
    with pytest.raises(TypeError):
        SelfPlayConfig("data", None, 32, 0.1, 0.1, 0.7, top_k, {}, {}, {}, None, 2)  # type: ignore[misc]

"""DPOTrainer: DPO on given pairs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from self_rewarding_lm_pytorch import DPO, DPOTrainer, create_mock_dataset, load_checkpoint
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.training.early_stopping import EarlyStopper
from tests.published.test_preference_training import Scores
from tests.published.worlds import CPU, pair_items, same_weights, tiny, weights

FAST = {"batch_size": 4, "grad_accum_steps": 1, "start_learning_rate": 0.01, "dropout": 0.0}


def tuned(model: Any = None, *, items: Any = None, **arguments: Any) -> tuple[nn.Module, dict[str, float]]:
    """The policy and the last metrics."""
    model = tiny() if model is None else model
    if "dataset_generator" not in arguments:
        arguments["train_dataset"] = pair_items(4) if items is None else items
    given = {**FAST, "accelerate_kwargs": CPU, **arguments}
    trainer = DPOTrainer(model, **given)
    metrics = trainer()
    return trainer.model, metrics


def loss_of(model: nn.Module, reference: nn.Module, items: list[Any], beta: float = 0.1) -> float:
    """The mean DPO loss, worked out from log-softmax alone."""

    def logprob(net: nn.Module, ids: Tensor, prompt: int) -> Tensor:
        logs = net(ids[None])[0].double().log_softmax(dim=-1)
        return logs[prompt - 1 : -1].gather(1, ids[prompt:, None]).sum()

    losses = []
    with torch.no_grad():
        for chosen, rejected, length in items:
            first = logprob(model, chosen, int(length)) - logprob(reference, chosen, int(length))
            second = logprob(model, rejected, int(length)) - logprob(reference, rejected, int(length))
            losses.append(-nn.functional.logsigmoid(beta * (first - second)))
    return float(torch.stack(losses).mean())


def test_it_raises_the_preferred_over_the_unpreferred() -> None:
    items = pair_items(4)
    model, _ = tuned(items=items, num_train_steps=20)
    assert loss_of(model, tiny(), items) < math.log(2) - 0.2


def test_the_reference_is_the_model_as_it_was_when_training_started() -> None:
    items = pair_items(4)
    model, metrics = tuned(items=items, num_train_steps=8, valid_dataset=items)
    assert metrics["valid_loss"] == pytest.approx(loss_of(model, tiny(), items), abs=1e-4)


def test_num_train_steps_is_exact_and_one_pass_is_the_default() -> None:
    assert tuned(num_train_steps=3)[1]["num_steps"] == 3
    assert tuned(items=pair_items(9))[1]["num_steps"] == 3


def test_the_default_batch_is_16_in_each_of_2_passes() -> None:
    trainer = DPOTrainer(tiny(), train_dataset=pair_items(33), accelerate_kwargs=CPU)
    assert trainer()["num_steps"] == 2


def test_defaults_are_the_published_numbers() -> None:
    metrics = DPOTrainer(tiny(), train_dataset=pair_items(2), num_train_steps=10, accelerate_kwargs=CPU)()
    expected = 1e-7 + 9e-7 * (1 + math.cos(math.pi * 9 / 1000)) / 2
    assert metrics["learning_rate"] == pytest.approx(expected, rel=1e-6)
    same = tuned(num_train_steps=3, dpo_kwargs={"beta": 0.1, "ref_model_ema_decay": 1.0})[0]
    assert same_weights(tuned(num_train_steps=3)[0], same)


def test_a_data_set_generator_makes_the_data_when_training_starts() -> None:
    calls = []

    def make() -> Any:
        calls.append(1)
        return pair_items(4)

    trainer = DPOTrainer(tiny(), dataset_generator=make, accelerate_kwargs=CPU, **FAST)
    assert not calls
    trainer()
    assert len(calls) == 1
    assert same_weights(trainer.model, tuned()[0])


@pytest.mark.parametrize("given", [{}, {"train_dataset": [], "dataset_generator": list}])
def test_it_needs_one_source_of_pairs(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="either train_dataset or dataset_generator"):
        DPOTrainer(tiny(), **given)


def test_a_mock_data_set_is_read_once() -> None:
    made = []

    def item() -> Any:
        made.append(1)
        return torch.randint(0, 256, (6,)), torch.randint(0, 256, (6,)), torch.tensor(2)

    tuned(items=create_mock_dataset(5, item), num_train_steps=6)
    assert len(made) == 5


def test_negative_padding_is_cut_and_the_callers_tensors_are_kept() -> None:
    items = pair_items(4)
    padded = [(torch.cat((c, torch.full((3,), -1))), r, n) for c, r, n in items]
    assert same_weights(tuned(items=padded)[0], tuned(items=items)[0])
    assert padded[0][0][-3:].tolist() == [-1, -1, -1]


def test_padding_that_could_be_a_token_is_refused() -> None:
    items = [(torch.tensor([1, 2, 0, 0]), torch.tensor([1, 3, 4]), torch.tensor(1))]
    with pytest.raises(DataError, match="item 0 ends with pad_id 0"):
        tuned(items=items, dpo_kwargs={"pad_id": 0})
    with pytest.raises(DataError, match="item 0 ends with pad_id 0"):
        tuned(DPO(tiny(), pad_id=0), items=items)


def test_accumulated_passes_make_one_step() -> None:
    whole = tuned(items=pair_items(6), batch_size=6)
    split = tuned(items=pair_items(6), batch_size=2, grad_accum_steps=3)
    assert whole[1]["num_steps"] == split[1]["num_steps"] == 1
    assert torch.allclose(weights(whole[0]), weights(split[0]), atol=1e-4)


def test_rates_decay_dropout_and_adam_kwargs_act() -> None:
    rates = {"end_learning_rate": 0.004, "num_decay_steps": 2, "num_train_steps": 3}
    assert tuned(**rates)[1]["learning_rate"] == pytest.approx(0.004)
    plain, decayed = tuned()[0], tuned(weight_decay=0.5)[0]
    name = "to_logits.weight"
    difference = decayed.state_dict()[name] - plain.state_dict()[name]
    assert torch.allclose(difference, -0.01 * 0.5 * tiny().state_dict()[name], atol=1e-6)
    assert not same_weights(plain, tuned(dropout=0.5)[0])
    still = tuned(adam_kwargs={"eps": 1e9})[0]
    assert torch.allclose(weights(still), weights(tiny()), atol=1e-6)


def test_the_default_dropout_is_a_tenth() -> None:
    given = {**FAST, "train_dataset": pair_items(4), "accelerate_kwargs": CPU}
    del given["dropout"]
    trainer = DPOTrainer(tiny(), **given)
    trainer()
    assert same_weights(trainer.model, tuned(dropout=0.1)[0])
    assert not same_weights(trainer.model, tuned()[0])


def test_validation_is_on_the_valid_pairs_without_dropout() -> None:
    valid = pair_items(6)[4:]
    model, metrics = tuned(valid_dataset=valid, num_train_steps=3, dropout=0.5)
    assert metrics["valid_loss"] == pytest.approx(loss_of(model, tiny(), valid), abs=1e-4)


def test_a_stopper_module_stops_at_a_fall_and_the_best_weights_return() -> None:
    evaluate = Scores(0.1, 0.5, 0.4)
    model, metrics = tuned(early_stopper_eval_module=evaluate, check_early_stop_every=2, num_train_steps=20)
    assert metrics["num_steps"] == 6
    assert torch.equal(weights(model), evaluate.seen[1])


def test_a_stopper_object_is_used_as_it_is() -> None:
    evaluate = Scores(0.5, 0.4)
    model, metrics = tuned(early_stopper=EarlyStopper(evaluate, every=3), num_train_steps=20)
    assert metrics["num_steps"] == 6
    assert torch.equal(weights(model), evaluate.seen[0])


def test_early_stopper_kwargs_act(tmp_path: Path) -> None:
    evaluate = Scores(0.5, 0.4, 0.3)
    kwargs = {"calculate_should_stop": lambda s: len(s) == 3, "early_stop_checkpoint_folder": tmp_path}
    _, metrics = tuned(
        early_stopper_eval_module=evaluate, check_early_stop_every=1, num_train_steps=9,
        early_stopper_kwargs=kwargs,
    )  # fmt: skip
    assert metrics["num_steps"] == 3
    best = tiny(seed=4)
    load_checkpoint(best, tmp_path / "best.safetensors")
    assert torch.equal(weights(best), evaluate.seen[0])


def test_a_dpo_module_brings_its_beta_and_its_reference() -> None:
    dpo = DPO(tiny(), beta=0.4)
    with torch.no_grad():
        for parameter in dpo.policy_model.parameters():
            parameter.mul_(1.5)
    start = tiny()
    for parameter in start.parameters():
        parameter.data.mul_(1.5)
    items = pair_items(4)
    model, metrics = tuned(dpo, items=items, num_train_steps=1, valid_dataset=items)
    assert metrics["loss"] == pytest.approx(loss_of(start, tiny(), items, beta=0.4), abs=1e-4)
    assert metrics["valid_loss"] == pytest.approx(loss_of(model, tiny(), items, beta=0.4), abs=1e-4)
    assert model is dpo.policy_model
    assert same_weights(dpo.ref_model, tiny())


def test_a_dpo_modules_reference_follows_by_its_decay() -> None:
    dpo = DPO(tiny(), ref_model_ema_decay=0.75)
    model, _ = tuned(dpo, num_train_steps=1)
    expected = 0.75 * weights(tiny()) + 0.25 * weights(model)
    assert torch.allclose(weights(dpo.ref_model), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="give it to the DPO module alone"):
        tuned(DPO(tiny()), dpo_kwargs={"ref_model_ema_decay": 0.5})


def test_dpo_kwargs_give_beta_and_the_references_decay() -> None:
    same = [
        tuned(num_train_steps=2, dpo_kwargs=kwargs)[1]["margin"] for kwargs in ({"beta": 0.4}, {"λ": 0.4})
    ]
    assert same[0] == same[1]
    assert same[0] > 2 * tuned(num_train_steps=2)[1]["margin"]
    following = tuned(num_train_steps=8, dpo_kwargs={"ref_model_ema_decay": 0.0})[1]
    frozen = tuned(num_train_steps=8)[1]
    assert following["margin"] < frozen["margin"] / 2


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("dpo_kwargs", {"bta": 1}, "'bta'; known: .*beta"),
        ("adam_kwargs", {"beta": 1}, "'beta'; known: .*betas"),
        ("early_stopper_kwargs", {"every": 1}, "'every'; known: .*calculate_should_stop"),
        ("accelerate_kwargs", {"cpus": 1}, "'cpus'; known: .*cpu"),
    ],
)
def test_unknown_keys_list_the_known_ones(argument: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tuned(**{argument: value})


def test_an_accelerator_of_the_users_own_is_used() -> None:
    accelerator = Accelerator(cpu=True)
    steps = []
    original = accelerator.backward
    accelerator.backward = lambda loss: (steps.append(1), original(loss))  # type: ignore[method-assign]
    tuned(accelerator=accelerator, accelerate_kwargs={}, num_train_steps=2)
    assert len(steps) == 2

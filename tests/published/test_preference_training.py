"""Steps, rates, dropout, stoppers and references of the rewarded stages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch import load_checkpoint
from self_rewarding_lm_pytorch.errors import ConfigError, TrainingError
from tests.published.worlds import (
    ParityJudge,
    external,
    metrics,
    run,
    same_weights,
    self_reward,
    shown_whole,
    tiny,
    trainer,
    weights,
)

KWARGS = {"batch_size": 2, "grad_accum_steps": 1, "start_learning_rate": 0.01}


def trained(folder: Path, *, model: Any = None, **arguments: Any) -> Any:
    kwargs = {**KWARGS, **arguments.pop("trainer_kwargs", {})}
    return run(model or tiny(), [external(trainer_kwargs=kwargs, **{"dropout": 0.0, **arguments})], folder)


def steps(folder: Path) -> int:
    return int(metrics(folder)[-1]["step"])


class Scores:
    """An evaluation with given scores, one after the other (the last is repeated)."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)
        self.seen: list[Tensor] = []

    def __call__(self, model: nn.Module) -> float:
        self.seen.append(weights(model))
        return self.scores[min(len(self.seen), len(self.scores)) - 1]


@pytest.mark.parametrize("count", [1, 5])
def test_num_train_steps_is_the_exact_number_of_steps(tmp_path: Path, count: int) -> None:
    trained(tmp_path, num_train_steps=count)
    assert steps(tmp_path) == count


def test_it_holds_for_self_reward_too(tmp_path: Path) -> None:
    config = self_reward(ParityJudge(), num_train_steps=3)
    run(tiny(), [config], tmp_path, self_reward_prompt_config=shown_whole())
    assert steps(tmp_path) == 3


def test_without_steps_or_stopper_the_pairs_are_seen_once(tmp_path: Path) -> None:
    trained(tmp_path, num_train_steps=None, num_generated_preference_pairs=5)
    assert steps(tmp_path) == math.ceil(5 / 2)


def test_the_default_batch_is_16_pairs_in_each_of_2_passes(tmp_path: Path) -> None:
    config = external(
        num_train_steps=None, num_generated_preference_pairs=33, reward_generator_kwargs={"batch_size": 33}
    )
    run(tiny(), [config], tmp_path)
    assert steps(tmp_path) == 2


def test_accumulated_passes_make_one_step(tmp_path: Path) -> None:
    given = {"num_generated_preference_pairs": 6, "num_train_steps": None}
    whole = trained(tmp_path / "a", trainer_kwargs={"batch_size": 6}, **given)
    split = trained(tmp_path / "b", trainer_kwargs={"batch_size": 2, "grad_accum_steps": 3}, **given)
    assert steps(tmp_path / "a") == steps(tmp_path / "b") == 1
    assert torch.allclose(weights(whole.model), weights(split.model), atol=1e-4)


def test_the_rate_falls_to_the_end_rate_over_num_decay_steps(tmp_path: Path) -> None:
    kwargs = {"end_learning_rate": 0.004, "num_decay_steps": 3}
    trained(tmp_path / "long", num_train_steps=4, trainer_kwargs=kwargs)
    assert metrics(tmp_path / "long")[-1]["learning_rate"] == pytest.approx(0.004)
    trained(tmp_path / "short", num_train_steps=1, trainer_kwargs=kwargs)
    assert metrics(tmp_path / "short")[-1]["learning_rate"] == pytest.approx(0.01)


def test_the_default_rates_are_1e_6_falling_to_1e_7_in_1000_steps(tmp_path: Path) -> None:
    run(tiny(), [external(num_train_steps=10)], tmp_path)
    rate = metrics(tmp_path)[-1]["learning_rate"]
    assert rate == pytest.approx(1e-7 + 9e-7 * (1 + math.cos(math.pi * 9 / 1000)) / 2, rel=1e-3)


def test_weight_decay_and_adam_kwargs_act(tmp_path: Path) -> None:
    start, name = tiny().state_dict()["to_logits.weight"], "to_logits.weight"
    plain = trained(tmp_path / "a").model.state_dict()[name]
    decayed = trained(tmp_path / "b", trainer_kwargs={"weight_decay": 0.5}).model.state_dict()[name]
    assert torch.allclose(decayed - plain, -0.01 * 0.5 * start, atol=1e-6)
    still = trained(tmp_path / "c", trainer_kwargs={"adam_kwargs": {"eps": 1e9}}).model
    assert torch.allclose(weights(still), weights(tiny()), atol=1e-6)


def test_dropout_acts_while_training_only(tmp_path: Path) -> None:
    models = [trained(tmp_path / str(rate), dropout=rate).model for rate in (0.0, 0.5)]
    assert not same_weights(*models)
    assert {part.p for part in models[1].modules() if isinstance(part, nn.Dropout)} == {0.0}


def test_the_first_loss_is_ln_2_for_dropout_never_enters_the_reference(tmp_path: Path) -> None:
    trained(tmp_path, num_train_steps=1)
    assert metrics(tmp_path)[-1]["loss"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    "spelling",
    [
        {"dpo_beta": 0.4},
        {"beta": 0.4},
        {"trainer_kwargs": {"dpo_kwargs": {"beta": 0.4}}},
        {"trainer_kwargs": {"dpo_kwargs": {"dpo_beta": 0.4}}},
    ],
)
def test_beta_scales_the_margin_under_every_spelling(tmp_path: Path, spelling: dict[str, Any]) -> None:
    trained(tmp_path / "a", num_train_steps=2, **spelling)
    trained(tmp_path / "b", num_train_steps=2)
    # Adam's first step is the same for every size of the gradient, so only beta itself differs.
    ratio = metrics(tmp_path / "a")[-1]["margin"] / metrics(tmp_path / "b")[-1]["margin"]
    assert ratio == pytest.approx(4, rel=0.02)


def test_two_different_betas_are_refused(tmp_path: Path) -> None:
    kwargs = {"dpo_kwargs": {"beta": 0.4, "λ": 0.5}}
    with pytest.raises(ConfigError, match="beta twice"):
        trainer(tiny(), [external(trainer_kwargs=kwargs)], tmp_path)


def test_the_reference_stays_at_the_stages_start_unless_it_has_a_decay(tmp_path: Path) -> None:
    """With decay 0 the reference is the policy after each step, so the loss is ln 2 again and again."""
    given = {"num_train_steps": 10}
    trained(tmp_path / "frozen", **given)
    following = {"dpo_kwargs": {"ref_model_ema_decay": 0.0}}
    trained(tmp_path / "following", trainer_kwargs=following, **given)
    assert metrics(tmp_path / "following")[-1]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert metrics(tmp_path / "frozen")[-1]["loss"] < math.log(2) - 0.01


def test_a_decay_between_lies_between(tmp_path: Path) -> None:
    margins = []
    for decay in (0.0, 0.5, 1.0):
        kwargs = {"dpo_kwargs": {"ref_model_ema_decay": decay}}
        trained(tmp_path / str(decay), num_train_steps=10, trainer_kwargs=kwargs)
        margins.append(metrics(tmp_path / str(decay))[-1]["margin"])
    assert margins[0] < margins[1] < margins[2]


# Early stopping


def test_training_stops_when_the_evaluation_falls_and_the_best_weights_return(tmp_path: Path) -> None:
    evaluate = Scores(0.1, 0.5, 0.4, 0.9)
    done = trained(
        tmp_path,
        num_train_steps=20,
        early_stopper_eval_module=evaluate,
        trainer_kwargs={"check_early_stop_every": 2},
    )
    assert len(evaluate.seen) == 3
    assert done.stage["metrics"]["num_steps"] == 6
    assert torch.equal(weights(done.model), evaluate.seen[1])
    assert not torch.equal(evaluate.seen[1], evaluate.seen[2])


def test_negative_scores_that_rise_do_not_stop(tmp_path: Path) -> None:
    evaluate = Scores(-5.0, -3.0, -3.0, -1.0)
    done = trained(
        tmp_path,
        num_train_steps=4,
        early_stopper_eval_module=evaluate,
        trainer_kwargs={"check_early_stop_every": 1},
    )
    assert done.stage["metrics"]["num_steps"] == 4
    assert torch.equal(weights(done.model), evaluate.seen[3])


def test_a_stopper_without_a_number_of_steps_ends_too(tmp_path: Path) -> None:
    rising = Scores(*map(float, range(100)))
    given = {"num_train_steps": None, "early_stopper_eval_module": rising}
    done = trained(tmp_path / "rising", trainer_kwargs={"check_early_stop_every": 1}, **given)
    assert done.stage["metrics"]["num_steps"] == 10  # 10 passes over 2 pairs
    given["early_stopper_eval_module"] = Scores(2.0, 1.0)
    done = trained(tmp_path / "falling", trainer_kwargs={"check_early_stop_every": 3}, **given)
    assert done.stage["metrics"]["num_steps"] == 6


def test_it_is_checked_every_200_steps_and_at_the_end(tmp_path: Path) -> None:
    evaluate = Scores(1.0)
    done = trained(tmp_path, num_train_steps=201, early_stopper_eval_module=evaluate)
    assert done.stage["metrics"]["num_steps"] == 201
    assert len(evaluate.seen) == 2


def test_a_module_may_be_the_evaluation(tmp_path: Path) -> None:
    class Evaluation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, model: nn.Module) -> Tensor:
            self.calls += 1
            return -torch.tensor(float(self.calls))

    evaluation = Evaluation()
    config = self_reward(
        ParityJudge(),
        num_train_steps=9,
        early_stopper_eval_module=evaluation,
        trainer_kwargs={"check_early_stop_every": 2},
    )
    done = run(tiny(), [config], tmp_path, self_reward_prompt_config=shown_whole())
    assert (evaluation.calls, done.stage["metrics"]["num_steps"]) == (2, 4)


def test_the_model_is_evaluated_without_dropout(tmp_path: Path) -> None:
    modes: list[bool] = []

    def look(model: nn.Module) -> float:
        modes.append(model.training)
        return 0.0

    trained(
        tmp_path, num_train_steps=1, early_stopper_eval_module=look,
        trainer_kwargs={"check_early_stop_every": 1},
    )  # fmt: skip
    assert modes == [False]


def test_early_stopper_kwargs_decide_when_to_stop_and_where_the_best_is_kept(tmp_path: Path) -> None:
    evaluate = Scores(0.1, 0.5, 0.4, 0.3, 0.2)
    kwargs = {
        "check_early_stop_every": 1,
        "early_stopper_kwargs": {
            "calculate_should_stop": lambda scores: len(scores) > 2 and scores[-1] < scores[-3],
            "early_stop_checkpoint_folder": tmp_path / "best",
        },
    }
    done = trained(
        tmp_path / "run", num_train_steps=9, early_stopper_eval_module=evaluate, trainer_kwargs=kwargs
    )
    assert done.stage["metrics"]["num_steps"] == 4
    assert torch.equal(weights(done.model), evaluate.seen[1])
    kept = tiny(seed=9)
    load_checkpoint(kept, tmp_path / "best" / "best.safetensors")
    assert torch.equal(weights(kept), evaluate.seen[1])


def test_an_evaluation_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="NaN"):
        trained(
            tmp_path, early_stopper_eval_module=Scores(math.nan),
            trainer_kwargs={"check_early_stop_every": 1},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learning_rate": 1.0}, "'learning_rate'; known: .*start_learning_rate"),
        ({"dpo_kwargs": {"bta": 0.1}}, "'bta'; known: .*beta.*ref_model_ema_decay"),
        ({"adam_kwargs": {"beta": 0.1}}, "'beta'; known: .*betas"),
        ({"early_stopper_kwargs": {"folder": "x"}}, "'folder'; known: .*early_stop_checkpoint_folder"),
    ],
)
def test_unknown_keys_list_the_known_ones_before_anything_runs(
    tmp_path: Path, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(tiny(), [external(trainer_kwargs=kwargs)], tmp_path)
    assert not list(tmp_path.iterdir())

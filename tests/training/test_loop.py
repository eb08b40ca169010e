"""The loop: how a step is made of items, what stops it, and what it reports."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from self_rewarding_lm_pytorch.data.collate import collate
from self_rewarding_lm_pytorch.errors import ConfigError, SelfRewardingError, TrainingError
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs
from self_rewarding_lm_pytorch.text import example_from_parts
from self_rewarding_lm_pytorch.training.loop import Hooks, validation_metrics
from self_rewarding_lm_pytorch.training.metrics import MetricsLog
from tests.helpers import Successor, recurrent, x_transformer
from tests.training.worlds import examples, pairs, preference, run, supervised, weights


@pytest.mark.parametrize("micro", [1, 3, 4])
@pytest.mark.parametrize("make", [recurrent, x_transformer], ids=["plain", "x-transformers"])
def test_how_a_step_is_split_changes_no_weight(make: Any, micro: int) -> None:
    """8 items of unequal length in one forward pass, or in passes of 1, 3 or 4 (the last is smaller)."""
    whole, split = make(), make()
    first = run(whole, supervised(examples(8)), num_steps=3)
    second = run(split, supervised(examples(8), micro=micro), num_steps=3)
    tolerance = 1e-12 if make is recurrent else 1e-6  # x-transformers' softmax is float32
    assert torch.allclose(weights(whole), weights(split), rtol=0, atol=tolerance)
    assert first.metrics["grad_norm"] == pytest.approx(second.metrics["grad_norm"], abs=tolerance)
    assert not torch.allclose(weights(whole), weights(make()), atol=1e-3), "nothing was trained"


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("nll_weight", [0.0, 0.7])
def test_how_a_step_of_pairs_is_split_changes_no_weight(micro: int, nll_weight: float) -> None:
    whole, split = recurrent(), recurrent()
    run(whole, preference(whole, pairs(8), nll_weight=nll_weight), num_steps=3)
    run(split, preference(split, pairs(8), nll_weight=nll_weight, micro=micro), num_steps=3)
    assert torch.allclose(weights(whole), weights(split), rtol=0, atol=1e-12)
    assert not torch.allclose(weights(whole), weights(recurrent()), atol=1e-3), "nothing was trained"


def test_the_first_gradient_is_that_of_the_mean_over_all_target_tokens() -> None:
    """Not a mean of row means: the reference divides one sum by one count. Norm of the gradient."""
    policy, twin = recurrent(), recurrent()
    found = run(policy, supervised(examples(8), micro=2), num_steps=1).metrics["grad_norm"]
    batch = collate(examples(8))
    (-sequence_logprobs(twin, batch).sum() / batch.num_targets).backward()
    grads = [p.grad.flatten() for p in twin.module.parameters() if p.grad is not None]
    assert found == pytest.approx(torch.cat(grads).norm().item(), rel=1e-10)


def test_the_accelerators_own_accumulation_does_not_scale_the_gradient() -> None:
    """The loop divides by counts itself; `accelerate_kwargs` of a user may still say 4."""
    norms = []
    for steps in (1, 4):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=steps)
        result = run(recurrent(), supervised(examples(8)), num_steps=1, accelerator=accelerator)
        norms.append(result.metrics["grad_norm"])
    assert norms[0] == pytest.approx(norms[1])


def test_a_gradient_that_was_there_before_does_not_enter_the_first_step() -> None:
    fresh, used = recurrent(), recurrent()
    used.logits(torch.tensor([[1, 2]])).sum().backward()
    run(fresh, supervised(examples(4)), num_steps=1)
    run(used, supervised(examples(4)), num_steps=1)
    assert torch.equal(weights(fresh), weights(used))


def test_training_is_a_pure_function_of_the_seed() -> None:
    found = []
    for seed, disturbance in ((1, 0), (1, 99), (2, 0)):
        policy = recurrent(dropout=0.2)
        torch.manual_seed(disturbance)  # the global generator's state must not matter
        run(policy, supervised(examples(10), batch_size=3), seed=seed, epochs=2)
        found.append(weights(policy))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-4)


def test_training_leaves_the_global_generator_as_it_was() -> None:
    policy = recurrent(dropout=0.2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(policy, supervised(examples(4)), num_steps=2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"epochs": 2}, 6), ({"num_steps": 2}, 2), ({"num_steps": 8}, 8), ({"epochs": 1}, 3)],
)
def test_steps_are_counted_from_epochs_or_given(settings: dict[str, int], expected: int) -> None:
    """10 items in batches of 4: three steps an epoch, the last with 2 items; 8 steps cycle."""
    steps: list[int] = []
    hooks = Hooks(after_step=steps.append)
    result = run(recurrent(), supervised(examples(10), batch_size=4), hooks=hooks, **settings)
    assert result.num_steps == expected
    assert steps == list(range(1, expected + 1))
    assert not result.stopped_early


def test_the_loss_falls() -> None:
    policy, items = recurrent(), examples(6)
    before = validation_metrics(policy, supervised(items))["valid_loss"]
    run(policy, supervised(items, batch_size=6), num_steps=40)
    assert validation_metrics(policy, supervised(items))["valid_loss"] < before / 2


def test_a_step_of_the_learning_rates_size_is_taken_and_the_rate_is_reported() -> None:
    """Adam's first step moves each weight by the rate (its update is g / |g|), if epsilon is small."""
    policy = recurrent()
    before = weights(policy)
    kwargs = {"eps": 1e-30}
    result = run(policy, supervised(examples(4)), num_steps=1, learning_rate=3e-3, optimizer_kwargs=kwargs)
    moved = (weights(policy) - before).abs()
    assert result.metrics["learning_rate"] == 3e-3
    assert moved[moved > 0].tolist() == pytest.approx([3e-3] * int((moved > 0).sum()), rel=1e-6)


def test_gradients_are_clipped_to_the_norm_and_the_unclipped_norm_is_reported() -> None:
    """Adam forgets a gradient's scale on its first step but not when it is added to a later one."""
    norms, moved = [], []
    for limit in (None, 1e-3):
        policy = recurrent()
        result = run(
            policy,
            supervised(examples(6)),
            num_steps=1,
            max_grad_norm=limit,
            optimizer_kwargs={"eps": 1.0},  # with a large epsilon the step is proportional to the gradient
        )
        norms.append(result.metrics["grad_norm"])
        moved.append((weights(policy) - weights(recurrent())).norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)
    assert moved[1] == pytest.approx(1e-2 * 1e-3, rel=0.01)  # rate x clipped norm, epsilon 1 dominates
    assert moved[0] > 10 * moved[1]


def test_a_model_with_nothing_to_train_is_refused() -> None:
    policy = recurrent()
    policy.module.requires_grad_(False)
    with pytest.raises(TrainingError, match="no parameter"):
        run(policy, supervised(examples(4)), num_steps=1)


def test_frozen_parts_stay_and_the_rest_moves() -> None:
    policy = recurrent()
    policy.module.embed.requires_grad_(False)  # type: ignore[union-attr]
    before = policy.module.embed.weight.clone()  # type: ignore[union-attr]
    run(policy, supervised(examples(4)), num_steps=2)
    assert torch.equal(policy.module.embed.weight, before)  # type: ignore[union-attr]
    assert not torch.equal(weights(policy), weights(recurrent()))


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched() -> None:
    policy = recurrent()
    with torch.no_grad():
        policy.module.out.bias[3] = math.nan  # type: ignore[union-attr]
    before = weights(policy)
    with pytest.raises(TrainingError, match=r"step 1 is not finite"):
        run(policy, supervised(examples(4)), num_steps=3)
    assert torch.equal(weights(policy).nan_to_num(7), before.nan_to_num(7))


def test_an_item_with_nothing_to_train_on_is_refused_in_words() -> None:
    with pytest.raises(SelfRewardingError):
        run(recurrent(), supervised([example_from_parts((3, 4), ())]), num_steps=1)


def test_an_unknown_optimizer_argument_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'beta'.*betas.*Did you mean 'betas'"):
        run(recurrent(), supervised(examples(2)), num_steps=1, optimizer_kwargs={"beta": 0.9})


def test_reported_metrics_are_means_over_the_tokens_since_the_last_report() -> None:
    """The model is certain (loss 0) on rows t, t+1, ... and pays 50 on every wrong token.

    Two items with 1 right target and one with 2 wrong: 100 / 4 = 25 a token. Learning rate 0.
    """
    policy = policy_for(Successor().double())
    items = [
        example_from_parts((3,), (4,)),
        example_from_parts((5,), (6,)),
        example_from_parts((9,), (2, 20)),
    ]
    term = supervised(items, batch_size=3, micro=1)
    result = run(policy, term, num_steps=4, learning_rate=0.0, log_every=2)
    assert result.metrics["nll"] == pytest.approx(25)
    assert result.metrics["loss"] == pytest.approx(25)
    assert validation_metrics(policy, term)["valid_loss"] == pytest.approx(25)


def test_reports_come_every_so_many_steps_and_after_the_last() -> None:
    seen: list[tuple[int, int, float]] = []
    hooks = Hooks(on_log=lambda step, total, metrics: seen.append((step, total, metrics["loss"])))
    result = run(recurrent(), supervised(examples(6), batch_size=2), num_steps=7, log_every=3, hooks=hooks)
    assert [(step, total) for step, total, _ in seen] == [(3, 7), (6, 7), (7, 7)]
    assert result.metrics["loss"] == seen[-1][2]


def test_a_report_kept_by_the_listener_does_not_change_later() -> None:
    kept: list[dict[str, float]] = []
    hooks = Hooks(on_log=lambda step, total, metrics: kept.append(metrics))
    run(recurrent(), supervised(examples(6), batch_size=2), num_steps=3, log_every=1, hooks=hooks)
    assert len({metrics["loss"] for metrics in kept}) == 3


def test_validation_is_reported_without_dropout() -> None:
    policy, held_out = recurrent(dropout=0.5), supervised(examples(5, seed=3), micro=2)
    hooks = Hooks(validation=held_out)
    result = run(policy, supervised(examples(6)), num_steps=4, validate_every=2, hooks=hooks)
    batch = collate(examples(5, seed=3))
    with policy.evaluating():
        expected = -sequence_logprobs(policy, batch).sum().item() / batch.num_targets
    assert result.metrics["valid_loss"] == pytest.approx(expected, rel=1e-9)


def test_a_replay_term_changes_the_result_and_is_reported_by_its_name() -> None:
    def trained(weight: float | None) -> tuple[Any, dict[str, float]]:
        policy = recurrent()
        terms = [preference(policy, pairs(6), batch_size=3)]
        if weight is not None:
            terms.append(supervised(examples(9), batch_size=4, micro=2, name="replay", weight=weight))
        result = run(policy, *terms, num_steps=3)
        return weights(policy), result.metrics

    without, half, full = trained(None), trained(0.5), trained(1.0)
    assert "replay_nll" not in without[1]
    assert full[1]["replay_nll"] > 0
    assert not torch.allclose(without[0], full[0], atol=1e-4)
    assert not torch.allclose(half[0], full[0], atol=1e-4)
    assert torch.equal(trained(0.0)[0], without[0])


def test_the_loss_of_two_terms_is_their_weighted_sum() -> None:
    """At learning rate 0 and reference = policy: ln 2 + 0.5 x the replay's loss per token."""
    policy = recurrent()
    terms = [
        preference(policy, pairs(6), batch_size=6),
        supervised(examples(9), batch_size=9, micro=2, name="replay", weight=0.5),
    ]
    metrics = run(policy, *terms, num_steps=2, learning_rate=0.0).metrics
    # 1e-6: the stored reference is float32
    assert metrics["loss"] == pytest.approx(math.log(2) + 0.5 * metrics["replay_nll"], abs=1e-6)


def test_the_model_is_left_in_evaluation_mode() -> None:
    policy = recurrent(dropout=0.5)
    run(policy, supervised(examples(4)), num_steps=1)
    assert not policy.module.training


@pytest.mark.parametrize(("probability", "acts"), [(None, False), (0.5, True)])
def test_the_dropout_setting_acts_while_training_and_is_gone_after(
    probability: float | None, acts: bool
) -> None:
    policy, plain = recurrent(dropout=0.0), recurrent(dropout=0.0)
    run(policy, supervised(examples(6)), num_steps=2, dropout=probability)
    run(plain, supervised(examples(6)), num_steps=2)
    assert (not torch.equal(weights(policy), weights(plain))) is acts
    assert [part.p for part in policy.module.modules() if isinstance(part, nn.Dropout)] == [0.0]


def test_a_small_learning_rate_is_logged_as_it_is(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", "dpo")
    log.write(1, 2, {"learning_rate": 5e-7, "loss": 0.69314718056})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["learning_rate"], line["loss"]) == (5e-7, 0.6931472)

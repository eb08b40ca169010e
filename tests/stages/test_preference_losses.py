"""Losses as plans name them: alone, mixed, with options, and what they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from tests.stages.worlds import QUIET, STAGES, plan


def trained(folder: Path, stage: str, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The stage's part of the summary, and its logged lines."""
    given = plan(folder)
    own = dict(STAGES[stage])
    if "train" in own:
        own["train"] = {**own["train"], **settings}
    else:
        own.update(settings)
    given["stages"] = [{"name": stage, **own}]
    summary = run(given, reporter=QUIET)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return summary["stages"][0], lines


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "simpo", "beta": 2.0, "loss_options": {"gamma": 0.5}},
        {"loss": "orpo"},
        {"loss": "aot"},
        {"loss": {"dpo": 1.0, "nll": 0.2}},
        {"loss": {"dpo": 1, "simpo": {"weight": 0.5, "beta": 2.0}}},
        {"loss": "robust", "loss_options": {"label_smoothing": 0.1}},
        {"loss": "dpo", "ld_alpha": 0.5},
        {"loss": "dpo", "optimizer": "rmsprop", "learning_rate": 3e-3},
    ],
    ids=lambda settings: str(settings["loss"]),
)
def test_a_plan_names_its_loss_and_training_tells_the_sides_apart(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    stage, lines = trained(tmp_path, "given", **settings, epochs=15, dropout=0.0, log_every=1)
    assert stage["metrics"]["accuracy"] == 1.0
    assert lines[-1]["preference_loss"] < lines[0]["preference_loss"]
    assert ("kl_estimate" in lines[0]) == (settings["loss"] not in ("simpo", "orpo"))


def test_a_loss_with_margins_takes_the_judges_points(tmp_path: Path) -> None:
    stage, _ = trained(tmp_path, "text", loss="odpo", dropout=0.0)
    assert stage["num_pairs"] > 0
    stage, _ = trained(tmp_path / "weighted", "text", margin_weighted=True, dropout=0.0)
    assert stage["num_pairs"] > 0


def test_a_loss_with_margins_is_refused_on_pairs_that_nobody_judged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"odpo.*pair 0 has no scores"):
        trained(tmp_path, "given", loss="odpo")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "dpoo"}, "Did you mean 'dpo'"),
        ({"loss": {"dpo": 1, "simpoo": 1}}, "Did you mean 'simpo'"),
        ({"loss": {}}, "names with weights"),
        ({"loss": "simpo", "loss_options": {"gama": 1}}, "Did you mean 'gamma'"),
        ({"loss": "robust", "loss_options": {"label_smoothing": 0.7}}, "0.7"),
        ({"loss": {"dpo": -1}}, "-1"),
        ({"ld_alpha": 0.5, "nll_weight": 1.0}, "leave one of them out"),
        ({"optimizer": "rmsprop", "optimizer_kwargs": {"betas": [0.9, 0.9]}}, "argument of rmsprop"),
        ({"loss": "aot", "batch_size": 4, "micro_batch_size": 2}, "micro_batch_size 2 cannot be smaller"),
    ],
    ids=str,
)
def test_a_loss_that_cannot_be_is_refused_before_anything_runs(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        trained(tmp_path, "given", **settings)
    assert not (tmp_path / "stages").exists()


def test_every_logged_step_of_preference_training_says_how_it_goes(tmp_path: Path) -> None:
    _, lines = trained(tmp_path, "given", epochs=2, log_every=1)
    assert len(lines) == 4
    for line in lines:
        assert set(line) >= {
            *("loss", "preference_loss", "margin", "accuracy", "reward_chosen", "reward_rejected"),
            *("chosen_logprob_per_token", "rejected_logprob_per_token", "kl_estimate"),
            *("chosen_tokens", "rejected_tokens", "grad_norm", "learning_rate", "tokens_per_second"),
        }
        assert line["tokens_per_second"] > 0
    assert {line["rejected_tokens"] for line in lines} == {3.0}  # "no" and the end

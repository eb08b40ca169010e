"""Cut off inside a training, a run goes on after the last stored step and ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.training import state
from tests.helpers import byte_codec
from tests.stages.resuming import (
    DPO,
    FIFTH,
    GO_ON,
    ONLINE,
    PUSH,
    SFT,
    WIN_RATE,
    Watching,
    assert_same,
    settings,
    states,
)
from tests.stages.worlds import ITEMS, PAIRS, QUIET, STAGES, hugging_face
from tests.test_resume import Deadly, die, in_a_fork, needs_fork


def odd_figure(module: torch.nn.Module) -> float:
    """Some function of the weights that rises and falls."""
    total = sum(float(parameter.detach().double().sum()) for parameter in module.parameters())
    return total * 1000 % 1


# The stage, at which training step the run is killed, counted over all its trainings, how many steps of the
# training under way were stored by then, and how many it has.
CASES: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "warm-up, dropout, and half a log line": (SFT, 4, 3, 6),
    "rmsprop": ({**SFT, "optimizer": "rmsprop", "optimizer_kwargs": {"momentum": 0.9}}, 4, 3, 6),
    "adamw that is not fused": ({**SFT, "optimizer_kwargs": {"foreach": False, "amsgrad": True}}, 4, 3, 6),
    "a stored reference, held-out pairs": ({**DPO, "valid_data": PAIRS, "validate_every": 2}, 4, 3, 6),
    "a moving average": ({**DPO, "reference": "ema", "reference_ema_decay": 0.8}, 4, 3, 6),
    "a refreshed reference": ({**DPO, "reference": "refresh", "reference_refresh_every": 2}, 6, 5, 6),
    "an early stopper": ({**DPO, **GO_ON, "early_stopper": odd_figure}, 5, 4, 6),
    "an early stopper that stops": ({**DPO, "early_stop_every": 1, "early_stopper": odd_figure}, 2, 1, 6),
    "a figure from before the kill": (
        {**DPO, **FIFTH, "early_stopper": odd_figure, "valid_data": PAIRS, "validate_every": 4},
        5,
        4,
        6,
    ),
    "win rates": ({**DPO, **GO_ON, "early_stopper": WIN_RATE}, 4, 3, 6),
    "the second of two trainings": ({**STAGES["play"], "train": {**PUSH, "epochs": 2}}, 7, 2, 6),
    "the middle of an online block": (ONLINE, 4, 3, 6),
    "between two online blocks": ({**ONLINE, "reference": "ema", "reference_ema_decay": 0.8}, 5, 4, 6),
    "pairs of its own": ({**STAGES["own"], "replay": ITEMS, "replay_batch_size": 2}, 3, 2, 3),
}


def assert_goes_on(
    tmp_path: Path, make: Callable[[Path], dict[str, Any]], at: int, stored: int, all_of_it: int
) -> None:
    whole = run(make(tmp_path / "whole"), reporter=QUIET)
    again = tmp_path / "again"
    assert in_a_fork(lambda: run(make(again), reporter=Deadly("training", at))), "it was to be killed"
    assert f"step-{stored:06d}" in " ".join(states(again))
    watching = Watching()
    summary = run(make(again), reporter=watching)
    assert_same(again, summary, (tmp_path / "whole", whole))
    assert not watching.warnings
    assert watching.advances[0] == stored
    steps = int(whole["stages"][0]["metrics"]["num_steps"])
    assert set(watching.advances[1:]) <= {1}
    assert sum(watching.advances) == min(steps, all_of_it), "no finished step was repeated"


@needs_fork
@pytest.mark.parametrize("case", CASES)
def test_a_training_killed_inside_goes_on_after_its_last_stored_step(case: str, tmp_path: Path) -> None:
    stage, at, stored, all_of_it = CASES[case]
    assert_goes_on(tmp_path, lambda folder: settings(folder, stage), at, stored, all_of_it)


@needs_fork
@pytest.mark.parametrize("reference", ["stage_start", "ema"])
def test_an_adapters_training_goes_on(reference: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def make(folder: Path) -> dict[str, Any]:
        torch.manual_seed(0)
        lora = peft.LoraConfig(r=2, lora_alpha=4, lora_dropout=0.2, target_modules=["q_proj", "v_proj"])
        model = peft.get_peft_model(hugging_face(), lora)
        decay = {"reference_ema_decay": 0.8} if reference == "ema" else {}
        return settings(folder, {**DPO, "reference": reference, **decay}, model=model, tokenizer=byte_codec())

    assert_goes_on(tmp_path, make, 4, 3, 6)


@needs_fork
def test_a_state_of_an_adapter_holds_the_adapter_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"])
    model = peft.get_peft_model(hugging_face(), lora)
    given = settings(tmp_path, SFT, model=model, tokenizer=byte_codec())
    assert in_a_fork(lambda: run(given, reporter=Deadly("training", 3)))
    (stored,) = tmp_path.glob("stages/01-it/state/train/step-*")
    held = state.read_parts(stored)["policy"].tensors
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and trained == {name for name in held if name in dict(model.named_parameters())}


@needs_fork
def test_a_finished_iteration_is_not_trained_again_nor_its_reference_computed(tmp_path: Path) -> None:
    given = settings(tmp_path, {**STAGES["play"], "num_iterations": 3, "train": {**PUSH, "epochs": 1}})
    assert in_a_fork(lambda: run(given, reporter=Deadly("training", 6)))
    assert [name for name in states(tmp_path) if name.endswith("done")] == [
        "iteration-1/done",
        "iteration-2/done",
    ]
    watching = Watching()
    run(given, reporter=watching)
    assert watching.advances == [1, 1, 1]
    assert watching.labels.count("training") == 1
    assert "reference log-probs" not in watching.labels, "the third's were stored"


@needs_fork
@pytest.mark.parametrize(
    "stage", [SFT, ONLINE, {**DPO, "early_stopper": WIN_RATE, **GO_ON}], ids=lambda s: s["kind"]
)
def test_a_run_killed_when_its_training_is_over_takes_its_result_over(
    stage: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(settings(tmp_path / "whole", stage), reporter=QUIET)
    again = settings(tmp_path / "again", stage)

    def killed() -> None:
        finish = state.TrainingStates.finish

        def then_die(self: Any, parts: Any) -> None:
            finish(self, parts)
            die()

        state.TrainingStates.finish = then_die  # type: ignore[method-assign]
        run(again, reporter=QUIET)

    assert in_a_fork(killed)
    assert states(tmp_path / "again") == ["train/done"]
    watching = Watching()
    summary = run(again, reporter=watching)
    assert_same(tmp_path / "again", summary, (tmp_path / "whole", whole))
    assert watching.advances == []

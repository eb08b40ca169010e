"""Trainings cut off by a signal or while a state is written, and states that are no good any more."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.errors import CheckpointError, TrainingError
from self_rewarding_lm_pytorch.interrupts import Interrupted
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.training import state
from tests.stages.resuming import (
    ONLINE,
    SFT,
    Watching,
    assert_same,
    settings,
    states,
)
from tests.stages.worlds import QUIET, weights
from tests.test_resume import Deadly, die, in_a_fork, needs_fork


@needs_fork
@pytest.mark.parametrize("instant", ["before it has its name", "before the older one is gone"])
def test_a_kill_while_a_state_is_written_costs_at_most_that_state(instant: str, tmp_path: Path) -> None:
    whole = run(settings(tmp_path / "whole", SFT), reporter=QUIET)
    again = settings(tmp_path / "again", SFT)

    def killed() -> None:
        write = state.write_folder

        def stop(path: Path, fill: Any) -> None:
            if path.name == "step-000004":
                if instant == "before it has its name":
                    path = path.with_name(f".{path.name}.tmp")
                    path.mkdir()
                    fill(path)
                    (path / "optimizer.safetensors").write_bytes(b"half")
                else:
                    write(path, fill)
                die()
            write(path, fill)

        state.write_folder = stop
        run(again, reporter=QUIET)

    assert in_a_fork(killed)
    left = {
        "before it has its name": ["step-000003"],
        "before the older one is gone": ["step-000003", "step-000004"],
    }
    assert [
        path.name for path in sorted((tmp_path / "again/stages/01-it/state/train").glob("step-*"))
    ] == left[instant]
    watching = Watching()
    summary = run(again, reporter=watching)
    assert_same(tmp_path / "again", summary, (tmp_path / "whole", whole))
    assert watching.advances[0] == int(left[instant][-1][-1])


@needs_fork
@pytest.mark.parametrize("damage", ["a byte", "half a file", "a file gone", "its list"])
def test_a_damaged_state_is_named_and_not_used(damage: str, tmp_path: Path) -> None:
    whole = run(settings(tmp_path / "whole", SFT), reporter=QUIET)
    again = settings(tmp_path / "again", SFT)
    assert in_a_fork(lambda: run(again, reporter=Deadly("training", 4)))
    (stored,) = tmp_path.glob("again/stages/01-it/state/train/step-*")
    file = stored / ("state.json" if damage == "its list" else "optimizer.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "a file gone":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "half a file" else content)
    watching = Watching()
    summary = run(again, reporter=watching)
    assert_same(tmp_path / "again", summary, (tmp_path / "whole", whole))
    assert watching.advances == [1] * 6
    assert len([text for text in watching.warnings if str(stored) in text]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_under_way_whose_state_is_stored(
    number: int, tmp_path: Path
) -> None:
    whole = run(settings(tmp_path / "whole", SFT) | {"save_every_seconds": 600}, reporter=QUIET)
    again = settings(tmp_path / "again", SFT) | {"save_every_seconds": 600}
    asked = Watching()
    asked._each = lambda: os.kill(os.getpid(), number) if len(asked.advances) == 3 else None
    with pytest.raises(Interrupted) as interrupted:
        run(again, reporter=asked)
    assert interrupted.value.exit_code == 128 + number
    assert asked.advances == [1, 1, 1]
    assert states(tmp_path / "again") == ["train/step-000003"]
    watching = Watching()
    summary = run(again, reporter=watching)
    assert_same(tmp_path / "again", summary, (tmp_path / "whole", whole))
    assert watching.advances == [3, 1, 1, 1]


def test_training_seconds_add_up_over_goes(tmp_path: Path) -> None:
    import time

    asked = Watching()
    asked._each = lambda: (
        (time.sleep(0.15), os.kill(os.getpid(), signal.SIGINT))[0] if len(asked.advances) == 2 else None
    )
    with pytest.raises(Interrupted):
        run(settings(tmp_path, SFT), reporter=asked)
    summary = run(settings(tmp_path, SFT), reporter=QUIET)
    assert summary["stages"][0]["train_seconds"] >= 0.15


@needs_fork
def test_pairs_that_an_online_state_was_trained_on_and_that_are_gone_are_said(tmp_path: Path) -> None:
    assert in_a_fork(lambda: run(settings(tmp_path, ONLINE), reporter=Deadly("training", 4)))
    sorted(tmp_path.glob("stages/01-it/pairs/*.parquet"))[0].unlink()
    with pytest.raises(CheckpointError, match=r"step-000003 does not fit .* only the first 0 .* or remove"):
        run(settings(tmp_path, ONLINE), reporter=QUIET)


@needs_fork
def test_a_gradient_that_was_not_finite_is_named_though_it_came_before_the_kill(tmp_path: Path) -> None:
    """With log_every 4 nobody has looked at step 2 when the run is killed in step 3."""
    given = settings(tmp_path, {**SFT, "learning_rate": 1e-2})

    def killed() -> None:
        from self_rewarding_lm_pytorch.training import stepper

        clip = torch.nn.utils.clip_grad_norm_
        calls: list[int] = []

        def spoiled(*arguments: Any) -> Any:
            calls.append(1)
            return clip(*arguments) * (float("nan") if len(calls) == 2 else 1)

        stepper.torch.nn.utils.clip_grad_norm_ = spoiled
        run(given, reporter=Deadly("training", 4))

    assert in_a_fork(killed)
    with pytest.raises(TrainingError, match="gradient of step 2 is not finite"):
        run(given, reporter=QUIET)


def test_a_finished_runs_weights_are_those_of_a_run_that_never_saved(tmp_path: Path) -> None:
    often = run(settings(tmp_path / "often", SFT), reporter=QUIET)
    never = run(settings(tmp_path / "never", SFT) | {"save_every_seconds": 1e9}, reporter=QUIET)
    assert weights(tmp_path / "often") == weights(tmp_path / "never")
    assert often["stages"][0]["metrics"] == never["stages"][0]["metrics"]


def test_a_signal_while_an_online_block_is_sampled_loses_no_trained_step(tmp_path: Path) -> None:
    """The run ends at the next stored shard, which lies between two steps."""
    whole = run(settings(tmp_path / "whole", ONLINE), reporter=QUIET)

    def asked(prompts: list[str], responses: list[str]) -> list[float]:
        if first.advances and not asks:
            asks.append(1)
            os.kill(os.getpid(), signal.SIGINT)
        return reward(prompts, responses)

    asks: list[int] = []
    from tests.stages import worlds

    reward = worlds.reward
    again = settings(tmp_path / "again", ONLINE) | {"save_every_seconds": 600}
    worlds.reward = asked
    first = Watching()
    try:
        with pytest.raises(Interrupted):
            run(again, reporter=first)
        assert states(tmp_path / "again") == [f"train/step-{len(first.advances):06d}"]
        watching = Watching()
        summary = run(again, reporter=watching)
    finally:
        worlds.reward = reward
    assert_same(tmp_path / "again", summary, (tmp_path / "whole", whole))
    assert sum(watching.advances) == 6
    assert watching.advances[0] == len(first.advances) > 0

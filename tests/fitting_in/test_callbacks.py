"""Callbacks: called at stages and steps, in order, and not for what an earlier go has done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from self_rewarding_lm_pytorch import Callback, SelfRewardingTrainer, SFTConfig, processes
from self_rewarding_lm_pytorch.callbacks import Callbacks, RunInfo, StageInfo
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from tests.stages.worlds import QUIET, plain, plan, weights, without_seconds
from tests.test_resume import Deadly, in_a_fork, needs_fork


class Recorder(Callback):
    """Writes down every call."""

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.stop_at = stop_at

    def on_run_begin(self, run: RunInfo) -> None:
        self.run = run
        self.calls.append(("run begins", run.num_done))

    def on_stage_begin(self, stage: StageInfo) -> None:
        self.calls.append(("begins", stage.name))

    def on_step(self, stage: StageInfo, step: int, num_steps: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("step", stage.name, step, num_steps, metrics.get("loss")))
        if (stage.name, step) == self.stop_at:
            raise RuntimeError("enough")

    def on_stage_end(self, stage: StageInfo, outcome: Mapping[str, Any], module: nn.Module) -> None:
        self.calls.append(("ends", stage.name, outcome))
        self.norm = float(sum(p.detach().double().norm() for p in module.parameters()))

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        self.calls.append(("run ends", summary["status"]))

    @property
    def steps(self) -> list[tuple[Any, ...]]:
        return [call[1:3] for call in self.calls if call[0] == "step"]


def test_a_run_calls_them_in_order_with_what_its_files_say(tmp_path: Path) -> None:
    recorder = Recorder()
    settings = plan(tmp_path / "run", "seed", "given")
    settings["stages"][0]["train"] = {"log_every": 2}
    summary = run(settings, reporter=QUIET, callbacks=[recorder])
    kinds = [call[0] for call in recorder.calls]
    assert kinds == [
        "run begins",
        *("begins", *["step"] * 3, "ends"),
        *("begins", *["step"] * 2, "ends"),
        "run ends",
    ]
    assert recorder.steps == [("seed", 1), ("seed", 2), ("seed", 3), ("given", 1), ("given", 2)]
    ends = [call[2] for call in recorder.calls if call[0] == "ends"]
    assert ends == summary["stages"]
    assert recorder.run.folder == tmp_path / "run" and [s.number for s in recorder.run.stages] == [1, 2]
    assert recorder.run.plan["stages"][0]["train"]["num_steps"] == 3, "every default is visible"


def test_metrics_come_at_logged_steps_alone(tmp_path: Path) -> None:
    recorder = Recorder()
    settings = plan(tmp_path / "run", "seed")
    settings["stages"][0]["train"] = {"log_every": 2}
    run(settings, reporter=QUIET, callbacks=[recorder])
    losses = [call[4] for call in recorder.calls if call[0] == "step"]
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] is None and [line["step"] for line in logged] == [2, 3]
    assert losses[1:] == pytest.approx([line["loss"] for line in logged], rel=1e-6)


def test_they_change_nothing_of_a_run_unless_they_mean_to(tmp_path: Path) -> None:
    plain_run = run(plan(tmp_path / "a", "seed", "own"), reporter=QUIET)
    watched = run(plan(tmp_path / "b", "seed", "own"), reporter=QUIET, callbacks=[Recorder(), Recorder()])
    assert without_seconds(plain_run) == without_seconds(watched)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_what_a_callback_raises_ends_the_run_and_the_same_call_goes_on(tmp_path: Path) -> None:
    settings = plan(tmp_path / "run", "seed", "given", save_every_seconds=0)
    with pytest.raises(RuntimeError, match="enough"):
        run(settings, reporter=QUIET, callbacks=[Recorder(stop_at=("given", 2))])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    recorder = Recorder()
    summary = run(settings, reporter=QUIET, callbacks=[recorder])
    assert recorder.calls[:2] == [("run begins", 1), ("begins", "given")]
    assert recorder.steps == [("given", 2)], "the first step was stored, the second was not"
    whole = run(plan(tmp_path / "whole", "seed", "given"), reporter=QUIET)
    assert without_seconds(summary) == without_seconds(whole)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@needs_fork
def test_a_stage_that_is_done_is_passed_over_and_one_cut_off_at_its_end_ends_again(tmp_path: Path) -> None:
    settings = plan(tmp_path / "run", "seed", "given")
    assert in_a_fork(lambda: run(settings, reporter=Deadly("2. given", 1)))
    recorder = Recorder()
    run(settings, reporter=QUIET, callbacks=[recorder])
    assert [call[:2] for call in recorder.calls if call[0] != "step"] == [
        ("run begins", 1),
        ("begins", "given"),
        ("ends", "given"),
        ("run ends", "completed"),
    ]
    finished = Recorder()
    run(settings, reporter=QUIET, callbacks=[finished])
    assert finished.calls == [], "a finished run is not run again"


def test_the_module_has_the_stages_final_weights(tmp_path: Path) -> None:
    recorder, module = Recorder(), plain()
    from tests.helpers import byte_codec

    settings = plan(tmp_path / "run", "seed", model=module, tokenizer=byte_codec())
    run(settings, reporter=QUIET, callbacks=[recorder])
    assert recorder.norm == float(sum(p.detach().double().norm() for p in module.parameters()))


def test_the_published_trainer_takes_them_and_trackers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    recorder = Recorder()
    data = [(torch.tensor([1, 2, 3, 4]), torch.tensor([True, True, False, False]))] * 4
    trainer = SelfRewardingTrainer(
        plain(),
        finetune_configs=[
            SFTConfig(data, trainer_kwargs={"num_epochs": 1, "batch_size": 2, "grad_accum_steps": 1})
        ],
        tokenizer_encode=lambda text: torch.tensor(list(text.encode())),
        tokenizer_decode=lambda ids: bytes(ids.tolist()).decode(errors="replace"),
        checkpoints_folder=tmp_path / "run",
        trackers=["tensorboard"],
        callbacks=[recorder],
    )
    trainer()
    assert recorder.steps == [("sft", 1), ("sft", 2)]
    assert any((tmp_path / "run" / "trackers" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("given", [Recorder, print, object()])
def test_what_is_no_callback_is_refused_before_anything_is_written(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="instances of a class that extends"):
        run(plan(tmp_path / "run", "seed"), reporter=QUIET, callbacks=[given])
    assert not (tmp_path / "run").exists()


def test_on_other_processes_only_those_that_ask_for_it_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Everywhere(Recorder):
        main_process_only = False

    both = [Recorder(), Everywhere()]
    monkeypatch.setattr(processes, "is_main", lambda: False)
    Callbacks(both).stage_begins(StageInfo(1, "a", "sft", Path()))
    assert [each.calls for each in both] == [[], [("begins", "a")]]

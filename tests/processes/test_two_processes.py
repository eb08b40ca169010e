"""A run on two processes is the run on one: same pairs, same losses, nobody waits for ever."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from tests.processes.launch import (
    LAUNCHERS,
    TORCHRUN,
    final_weights,
    losses,
    plan_file,
    start,
    train,
    without_dropout,
)
from tests.stages.worlds import QUIET, rows, without_seconds

NAMES = ("seed", "given", "play", "own", "live")
STAGES = without_dropout(*NAMES)
needs_signals = pytest.mark.skipif(os.name == "nt", reason="kills a process")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run(plan_file(folder, *STAGES), reporter=QUIET)
    return folder / "run"


@pytest.fixture(
    scope="module", params=["torchrun", pytest.param("accelerate launch", marks=pytest.mark.slow)]
)
def together(request: Any, tmp_path_factory: Any) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("together")
    code, said = train(plan_file(folder, *STAGES), launcher=LAUNCHERS[request.param])
    assert code == 0, said
    return folder / "run", said


def test_losses_are_those_of_one_process_in_every_stage(alone: Path, together: tuple[Path, str]) -> None:
    ours, theirs = losses(together[0]), losses(alone)
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs]
    assert {stage for stage, _, _ in ours} == {f"{n:02d}-{stage}" for n, stage in enumerate(NAMES, 1)}
    torch.testing.assert_close(
        torch.tensor([loss for *_, loss in ours]),
        torch.tensor([loss for *_, loss in theirs]),
        rtol=2e-6,
        atol=1e-7,
    )


def test_pairs_and_counts_are_those_of_one_process(alone: Path, together: tuple[Path, str]) -> None:
    assert rows(together[0]) == rows(alone)
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (together[0], alone))
    for one, other in zip(without_seconds(ours)["stages"], without_seconds(theirs)["stages"], strict=True):
        metrics, expected = one.pop("metrics"), other.pop("metrics")
        assert one == other
        assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_final_weights_are_those_of_one_process(alone: Path, together: tuple[Path, str]) -> None:
    ours, theirs = final_weights(together[0]), final_weights(alone)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-9)


def test_only_one_of_the_processes_talks(together: tuple[Path, str]) -> None:
    assert together[1].count("summary:") == 1


def test_parted_weights_give_the_losses_of_one_process(alone: Path, tmp_path: Path) -> None:
    code, said = train(plan_file(tmp_path, *STAGES, sharding="full", save_every_seconds=0))
    assert code == 0, said
    ours, theirs = losses(tmp_path / "run"), losses(alone)
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs]
    torch.testing.assert_close(
        torch.tensor([loss for *_, loss in ours]),
        torch.tensor([loss for *_, loss in theirs]),
        rtol=2e-6,
        atol=1e-7,
    )


def test_parting_the_weights_of_a_single_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sharding: full.*one process.*torchrun"):
        run(plan_file(tmp_path, "seed", sharding="full"), reporter=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharding_that_would_not_happen_is_refused(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=rf"{variable}.*sharding: full"):
        run(plan_file(tmp_path, "seed"), reporter=QUIET)
    assert not (tmp_path / "run").exists()


def test_processes_that_accelerate_does_not_see_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would do all of the work, and write over the other's files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"2 processes were started.*sees 1"):
        run(plan_file(tmp_path, "seed"), reporter=QUIET)


def test_fewer_prompts_than_processes_and_very_unequal_answers_end(tmp_path: Path) -> None:
    one = {"name": "one", "kind": "spin", "data": [{"prompt": "q?", "response": "yes"}], "num_iterations": 1}
    one |= {"opponent": {"temperature": 1.0, "max_new_tokens": 60}, "train": {"epochs": 1, "batch_size": 1}}
    code, said = train(plan_file(tmp_path, one))
    assert code == 0, said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stages"][0]["num_pairs"] == 1


@needs_signals
def test_a_run_killed_on_two_processes_goes_on_on_two_and_ends_the_same(
    together: tuple[Path, str], tmp_path: Path
) -> None:
    plan = plan_file(tmp_path, *STAGES, save_every_seconds=0)
    child = start(["self_rewarding_lm_pytorch", "train", str(plan)])
    try:
        _wait_for(child, lambda: (tmp_path / "run/stages/04-own/candidates/00000.parquet").exists())
        for pid in [*_ranks(child.pid), child.pid]:
            os.kill(pid, signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    with pytest.raises(ConfigError, match=r"(?s)processes.*2.*1.*--allow-changed"):
        run(plan, reporter=QUIET)
    code, said = train(plan)
    assert code == 0, said
    assert rows(tmp_path / "run") == rows(together[0])
    ours, theirs = final_weights(tmp_path / "run"), final_weights(together[0])
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def _wait_for(child: Any, is_so: Any) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline and child.poll() is None, "it did not come so far"
        time.sleep(0.05)


@needs_signals
def test_one_process_that_dies_ends_the_others_with_a_message(tmp_path: Path) -> None:
    plan = plan_file(
        tmp_path,
        {
            "name": "long",
            "kind": "sft",
            "data": [{"prompt": "a", "response": "b"}] * 4,
            "num_steps": 100_000,
            "batch_size": 2,
            "log_every": 1,
        },
    )
    child = start(["self_rewarding_lm_pytorch", "train", str(plan)], TORCHRUN)
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        _wait_for(child, lambda: log.exists() and log.read_text())
        os.kill(_ranks(child.pid)[1], signal.SIGKILL)
        said, _ = child.communicate(timeout=90)
    finally:
        child.kill()
    assert child.returncode != 0
    assert "another process of this run has ended" in said or "SIGKILL" in said
    assert "goes on from there" in said


def _ranks(launcher: int) -> list[int]:
    """The processes that a launcher started, in order."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    found = sorted((int(pid) for pid in children), key=lambda pid: _environment(pid).get("RANK", ""))
    return [pid for pid in found if "RANK" in _environment(pid)]


def _environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.partition("=")[::2] for entry in entries)

"""Killed at any instant, run again: it ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from self_rewarding_lm_pytorch.data import store
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Phase, Reporter
from tests.conftest import ROOT
from tests.helpers import byte_codec
from tests.stages.worlds import QUIET, hugging_face, plain, plan, rows, weights, without_seconds

STAGES = ("seed", "play", "own", "text")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(Reporter):
    """Kills the process when a phase has advanced so many times, or when a line is said."""

    def __init__(self, place: str, after: int) -> None:
        super().__init__(quiet=True)
        self._place = place
        self._after = after

    def say(self, text: str) -> None:
        if text.startswith(self._place):
            die()

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Phase]:
        with super().phase(label, total, unit) as phase:
            if label.startswith(self._place):
                phase.advance = self._counted  # type: ignore[method-assign]
            yield phase

    def _counted(self, count: int = 1, note: str = "") -> None:
        self._after -= 1
        if self._after <= 0:
            die()


def in_a_fork(work: Callable[[], Any], *, kill_after: float | None = None) -> bool:
    """Runs `work` in a process of its own; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(7)
    deadline = time.monotonic() + (60 if kill_after is None else kill_after)
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), "the run itself failed"
            return os.WIFSIGNALED(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert kill_after is not None, "the run hangs"
    return True


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return folder, run(plan(folder, *STAGES), reporter=QUIET)


def assert_equal_runs(
    folder: Path, summary: dict[str, Any], unbroken: tuple[Path, dict[str, Any]], *, has_search: bool = True
) -> None:
    other, expected = unbroken
    assert without_seconds(summary) == without_seconds(expected)
    assert weights(folder) == weights(other)
    assert rows(folder) == rows(other)
    assert not has_search or [p.name for p in sorted(folder.rglob("skipped.json"))]
    for file in folder.rglob("skipped.json"):
        assert file.read_text() == (other / file.relative_to(folder)).read_text()


def shards(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = folder.glob("stages/*/*/*.parquet")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@needs_fork
@pytest.mark.parametrize(
    ("place", "after"),
    [
        ("1. seed", 1),  # before anything
        ("training", 2),  # in the first training
        ("2. play", 1),  # between two stages
        ("opponent's answers, iteration 1", 3),
        ("opponent's answers, iteration 2", 8),  # in a later shard of the second iteration
        ("3. own", 1),
        ("shard 1: answers", 3),  # while sampling
        ("shard 2: answers", 1),  # between two shards
        ("shard 2: votes", 2),  # while judging
        ("reference log-probs", 5),  # after the pairs
        ("4. text", 1),
        ("shard 3: scores", 1),  # while the reward function's scores come in
    ],
)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(
    place: str, after: int, unbroken: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    settings = plan(folder, *STAGES)
    assert in_a_fork(lambda: run(settings, reporter=Deadly(place, after))), "it was to be killed"
    assert not (folder / "summary.json").exists()
    stored = shards(folder)
    summary = run(settings, reporter=QUIET)
    assert_equal_runs(folder, summary, unbroken)
    assert {path: now for path, now in shards(folder).items() if path in stored} == stored


@needs_fork
def test_finished_shards_are_neither_sampled_nor_judged_again(tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "asked.txt"

    def logged(prompts: list[str], responses: list[str]) -> list[float]:
        with log.open("a") as file:
            file.writelines(
                f"{prompt} {response!r}\n" for prompt, response in zip(prompts, responses, strict=True)
            )
        return [float(sum(map(ord, text)) % 7) for text in responses]

    settings = plan(folder, "text")
    settings["stages"][0]["reward"] = logged
    in_a_fork(lambda: run(settings, reporter=Deadly("shard 3: answers", 1)))
    run(settings, reporter=QUIET)
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 12, "six prompts, two answers: each was scored once"


@needs_fork
def test_a_run_killed_again_and_again_at_random_moments_still_ends_the_same(
    unbroken: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    settings = plan(folder, *STAGES)
    wait, kills = 0.1, 0
    while in_a_fork(lambda: run(settings, reporter=QUIET), kill_after=wait):
        kills += 1
        wait *= 1.15
        assert kills < 40
    assert kills >= 2
    assert_equal_runs(folder, run(settings, reporter=QUIET), unbroken)


@needs_fork
@pytest.mark.parametrize("kind", ["judgments", "pairs"])
def test_a_kill_between_two_files_of_a_shard_loses_only_what_was_not_there(
    kind: str, unbroken: Any, tmp_path: Path
) -> None:
    """Killed after a file was written under its temporary name and before it got its own."""
    folder = tmp_path / "run"
    settings = plan(folder, *STAGES)

    def killed() -> None:
        write = store.write_atomically

        def stop(path: Path, fill: Any) -> None:
            if path.parent.name == kind and path.name == "00001.parquet":
                fill(path.with_name(f".{path.name}.tmp"))
                die()
            write(path, fill)

        store.write_atomically = stop
        run(settings, reporter=QUIET)

    assert in_a_fork(killed)
    left = list(folder.rglob(".00001.parquet.tmp"))
    assert len(left) == 1, "the half-finished file"
    left[0].write_bytes(left[0].read_bytes()[:100])  # and not even whole
    stored = shards(folder)
    assert_equal_runs(folder, run(settings, reporter=QUIET), unbroken)
    assert {path: now for path, now in shards(folder).items() if path in stored} == stored


@needs_fork
def test_half_a_metrics_line_is_taken_out_and_no_step_stands_twice(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = plan(folder, "seed", "given")
    for stage in settings["stages"]:
        stage["train"] = {"log_every": 1}
    in_a_fork(lambda: run(settings, reporter=Deadly("reference log-probs", 1)))
    lines = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(lines + '{"stage": "02-given", "step": 1, "lo')
    run(settings, reporter=QUIET)
    found = [yaml.safe_load(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in found] == [
        *(("01-seed", step) for step in (1, 2, 3)),
        *(("02-given", step) for step in (1, 2)),
    ]


@needs_fork
@pytest.mark.parametrize("make", [plain, hugging_face])
def test_a_module_from_python_starts_from_the_weights_it_had_when_the_run_began(
    make: Any, tmp_path: Path
) -> None:
    """The resumed process builds its module anew, with other random weights: the first ones count."""

    def settings(folder: Path, seed: int) -> dict[str, Any]:
        return plan(folder, "seed", "text", model=make(seed=seed), tokenizer=byte_codec())

    whole = run(settings(tmp_path / "whole", 0), reporter=QUIET)
    broken = settings(tmp_path / "broken", 0)
    assert in_a_fork(lambda: run(broken, reporter=Deadly("training", 2)))
    other = settings(tmp_path / "broken", 4)
    summary = run(other, reporter=QUIET)
    assert_equal_runs(tmp_path / "broken", summary, (tmp_path / "whole", whole))
    final = torch.cat([p.detach().flatten() for p in other["model"].parameters()])
    assert not torch.equal(final, torch.cat([p.detach().flatten() for p in make(seed=4).parameters()]))


@needs_fork
def test_data_that_changed_between_the_kill_and_the_resumption_is_not_mixed_in(tmp_path: Path) -> None:
    """It is refused; who goes on in spite of it has the items that were kept when the stage started."""
    items = tmp_path / "items.jsonl"
    text = "".join(f'{{"prompt": "q{i}", "response": "r{i}"}}\n' for i in range(6))
    folders = [tmp_path / "whole", tmp_path / "broken"]
    plans = [plan(folder, "seed") for folder in folders]
    for each in plans:
        each["stages"][0]["data"] = str(items)
    items.write_text(text)
    whole = run(plans[0], reporter=QUIET)
    assert in_a_fork(lambda: run(plans[1], reporter=Deadly("training", 2)))
    items.write_text(text.replace(': "r', ': "other '))
    with pytest.raises(ConfigError, match=r"items\.jsonl"):
        run(plans[1], reporter=QUIET)
    summary = run(plans[1], reporter=QUIET, allow_changed=True)
    assert weights(folders[1]) == weights(folders[0])
    assert without_seconds(summary) == without_seconds(whole)


REWARD = """
import os
from pathlib import Path

def reward(prompts, responses):
    mark = Path(os.environ["MARK"])
    if not mark.exists() and (calls.append(1) or len(calls) == 2):
        mark.touch()
        os._exit(3)
    return [float(sum(map(ord, text)) % 7) for text in responses]

calls = []
"""


def test_the_command_goes_on_after_its_process_died_in_the_reward_function(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(REWARD)
    settings = plan(Path("run"), "text")
    settings["stages"][0]["reward"] = "reward.py:reward"
    settings["run"] = "run"
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(settings))
    environment = {**os.environ, "MARK": str(tmp_path / "mark"), "PYTHONPATH": str(ROOT)}
    code = "from self_rewarding_lm_pytorch.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", "plan.yaml"]
    results = [
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        for _ in range(2)
    ]
    assert [result.returncode for result in results] == [3, 0], results
    assert "shard 1: answers" in results[0].stdout
    assert "shard 1: answers" not in results[1].stdout, "the first shard was stored"
    other = plan(tmp_path / "whole", "text")
    run(other, reporter=QUIET)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")

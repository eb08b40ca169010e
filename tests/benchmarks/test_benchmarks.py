"""The benchmarks run and say what they promise; their numbers at this size mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def _last_line(*command: str) -> Any:
    """What a script of the benchmarks prints last."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / command[0]), *command[1:]],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("script", "name", "unit"), [("generation.py", "W1", "tokens/s"), ("judging.py", "W2", "votes/s")]
)
def test_a_benchmark_prints_both_sides_and_their_ratio(script: str, name: str, unit: str) -> None:
    common = ("--small", "--json", "--repeats", "1", "--threads", "1", "--only", name)
    entries = _last_line(script, *common)
    assert list(entries) == [name, f"{name}_memory", f"{name}_without_sampling"]
    assert [entry["unit"] for entry in entries.values()] == [unit, "MB", unit]
    for entry in entries.values():
        assert list(entry) == ["ours", "peer", "ratio", "unit"]
        assert entry["ours"] > 0 and entry["peer"] > 0
        assert entry["ratio"] == pytest.approx(entry["ours"] / entry["peer"], rel=0.01)


def test_preference_training_has_the_losses_of_trl_and_of_a_plain_loop() -> None:
    pytest.importorskip("trl")
    entries = _last_line(
        "preference.py", "--small", "--json", "--repeats", "1", "--threads", "1", "--only", "W3"
    )
    names = ["W3", "W3_plain", "W3_memory", "W3_loss_max_diff", "W3_grad_norm_max_diff"]
    assert list(entries) == names
    assert all(entries[name]["ours"] < 1e-5 for name in names[3:])


def test_both_sides_of_a_pair_in_one_row_lose_what_a_plain_loop_does() -> None:
    """Without TRL: our child and the plain one, step by step."""
    arguments = json.dumps({"kind": "W3", "small": True})
    ours, plain = (
        _last_line("child.py", f"common.pairs:{side}", "1", arguments) for side in ("ours", "plain")
    )
    assert len(ours["steps"]) == len(plain["steps"]) == 2
    for mine, theirs in zip(ours["steps"], plain["steps"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_our_side_runs_on_x_transformers_with_entropies_as_in_trained_models() -> None:
    arguments = json.dumps({"work": "W1", "small": True, "model": "x_transformers"})
    result = _last_line("child.py", "common.sides:ours", "1", arguments)
    assert result["units"] == 3 * 2 * 6
    assert 1.5 < result["entropy"] < 4.5  # few samples
    assert 0 < result["floor_seconds"] < result["seconds"]
    assert 0 < result["sampling_seconds"] < result["seconds"]


def test_the_floor_counts_a_shared_prefix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from common.floor import operations
    from common.work import SMALL, Work

    def of(*prompts: list[int]) -> float:
        return operations(Work(list(prompts), samples=1, new_tokens=1, unit="tokens/s"), SMALL)

    a_position = 2 * SMALL.layers * sum(rows * columns for rows, columns in SMALL.matrices)
    attention = 4 * SMALL.layers * SMALL.hidden
    head = 2 * SMALL.hidden * SMALL.vocabulary
    assert of([1, 2, 3]) == 3 * a_position + (1 + 2 + 3) * attention + head
    assert of([1, 2, 3], [1, 2, 4]) == 4 * a_position + (1 + 2 + 3 + 3) * attention + 2 * head
    assert of([1, 2, 3], [1, 2]) == of([1, 2, 3]) + head
    assert of([1, 2, 3], [1, 2, 3]) == of([1, 2, 3])

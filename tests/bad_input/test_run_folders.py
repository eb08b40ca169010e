"""Run folders and checkpoints that are cut off, altered, another run's, or cannot be written."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from self_rewarding_lm_pytorch.errors import CheckpointError, JudgeError
from self_rewarding_lm_pytorch.models.checkpoints import load_checkpoint
from self_rewarding_lm_pytorch.pipeline import run
from tests.bad_input.models import HERE
from tests.bad_input.table import Case, World, cases, check, stage
from tests.helpers import Recurrent
from tests.stages.worlds import QUIET, plain, weights

TWO = (stage("seed"), stage("text", reward=f"{HERE}:raises"))


def begun(spoil: Callable[[World], Any], *, stages: Any = TWO, **changes: Any) -> Any:
    """A run whose second stage failed, so that it will be gone on with; then something happens to it."""

    def make(world: World) -> Any:
        with pytest.raises(JudgeError):
            run(world.plan(*TWO), reporter=QUIET)
        spoil(world)
        return world.plan(*stages, **changes)

    return make


def written(name: str, content: bytes) -> Callable[[World], Any]:
    return lambda world: (world.run / name).write_bytes(content)


def removed(name: str) -> Callable[[World], Any]:
    return lambda world: (world.run / name).unlink()


def shortened(name: str) -> Callable[[World], Any]:
    """The last bytes of a file are gone."""

    def cut(world: World) -> None:
        file = world.run / name
        file.write_bytes(file.read_bytes()[:-64])

    return cut


def altered(name: str) -> Callable[[World], Any]:
    """One bit of a file, near its end, is another."""

    def flip(world: World) -> None:
        file = world.run / name
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(bytes(content))

    return flip


def nothing(world: World) -> None:
    """The plan is what changed."""


def loaded(make: Callable[[World], str]) -> Any:
    """`load_checkpoint` of what `make` leaves."""

    def prepare(world: World) -> Any:
        path = make(world)
        return lambda: load_checkpoint(plain(), path)

    return prepare


def checkpoint(module: nn.Module, cut: int = 0) -> Callable[[World], str]:
    def make(world: World) -> str:
        from self_rewarding_lm_pytorch.models.weights import save_weights

        file = world.given / "model.safetensors"
        save_weights(module, file)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) - cut])
        return str(file)

    return make


class Code:
    """Unpickled, it would leave a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


def pickled(name: str) -> Callable[[World], str]:
    return lambda world: world.file(name, pickle.dumps({"model": Code(world.root / "RAN")}))


FIRST = "stages/01-seed/checkpoint/model.safetensors"
SHARD = "stages/02-text/candidates/00000.parquet"
FOLDERS = [
    Case(
        "a manifest is broken",
        begun(written("manifest.json", b"{")),
        ("cannot be continued", "--fresh"),
        CheckpointError,
    ),
    Case(
        "a manifest is a list",
        begun(written("manifest.json", b"[]")),
        ("cannot be continued", "--fresh"),
        CheckpointError,
    ),
    Case(
        "a manifest is gone",
        begun(removed("manifest.json")),
        ("no manifest.json", "another run folder"),
        CheckpointError,
    ),
    Case(
        "a plan is gone",
        begun(removed("plan.yaml")),
        ("cannot be continued", "No such file", "--fresh"),
        CheckpointError,
    ),
    Case("another seed is given", begun(nothing, seed=5), ("seed", "0", "5", "--fresh")),
    Case(
        "another learning rate is given",
        begun(nothing, stages=(stage("seed", learning_rate=0.5), TWO[1])),
        ("learning_rate", "0.01", "0.5", "--fresh"),
    ),
    Case(
        "a checkpoint is cut off",
        begun(shortened(FIRST)),
        ("model.safetensors", "copy", "--fresh"),
        CheckpointError,
        late=True,
    ),
    Case(
        "a checkpoint is altered",
        begun(altered(FIRST)),
        ("model.safetensors", "altered", "copy", "--fresh"),
        CheckpointError,
        late=True,
    ),
    Case(
        "a checkpoint is gone",
        begun(removed(FIRST)),
        ("model.safetensors", "--fresh"),
        CheckpointError,
        late=True,
    ),
    Case(
        "a shard is cut off",
        begun(shortened(SHARD)),
        ("00000.parquet", "Delete this file", "copy"),
        CheckpointError,
        late=True,
    ),
    Case(
        "a shard is altered",
        begun(altered(SHARD)),
        ("00000.parquet", "Delete this file", "copy"),
        CheckpointError,
        late=True,
    ),
]


def in_a_file(world: World) -> Any:
    return world.plan(stage("seed"), run=world.file("notes.txt", "mine"))


def below_a_file(world: World) -> Any:
    return world.plan(stage("seed"), run=world.file("notes.txt", "mine") + "/run")


def on_a_read_only_disk(world: World) -> Any:
    """Whoever runs the tests: the kernel lets nobody make a folder there."""
    return world.plan(stage("seed"), run="/proc/run")


FOLDERS += [
    Case("the run folder is a file", in_a_file, ("notes.txt", "cannot be written to", "may write to")),
    Case(
        "the run folder lies below a file",
        below_a_file,
        ("notes.txt/run", "cannot be written to", "may write to"),
    ),
]

if Path("/proc").is_dir():
    FOLDERS.append(
        Case(
            "the run folder is on a read-only disk",
            on_a_read_only_disk,
            ("/proc/run", "cannot be written to", "may write to"),
        )
    )

CHECKPOINTS = [
    Case(
        "a checkpoint is not there",
        loaded(lambda world: str(world.given / "gone")),
        ("no checkpoint at", "gone"),
        CheckpointError,
    ),
    Case(
        "a checkpoint's folder is empty",
        loaded(lambda world: str(world.given)),
        ("no .safetensors file", "name a stage's checkpoint"),
        CheckpointError,
    ),
    Case(
        "weights are cut off",
        loaded(checkpoint(plain(), cut=100)),
        ("model.safetensors", "cannot be read as a checkpoint"),
        CheckpointError,
    ),
    Case(
        "weights are of another size",
        loaded(checkpoint(Recurrent(vocab=256, size=12))),
        ("(256, 12) in the file, (256, 8) in the model", "Build the model"),
        CheckpointError,
    ),
    Case(
        "weights are another model's",
        loaded(checkpoint(nn.Linear(3, 3))),
        ("missing", "unknown", "Build the model"),
        CheckpointError,
    ),
    Case("weights are a pickle", loaded(pickled("model.bin")), ("is a pickle", "save_file"), CheckpointError),
    Case(
        "an old checkpoint holds code",
        loaded(pickled("old.pt")),
        ("not unpickled", "Save the weights as safetensors"),
        CheckpointError,
    ),
]

CASES = [*FOLDERS, *CHECKPOINTS]


@cases(CASES)
def test_a_folder_that_cannot_be_gone_on_with_is_refused_and_left_as_it_is(
    case: Case, tmp_path: Path
) -> None:
    check(case, tmp_path)


@contextmanager
def files_no_larger_than(limit: int) -> Iterator[None]:
    """A full disk, as a program meets it: writing beyond so many bytes of any file fails."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files as POSIX does")
def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    def plan(name: str) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        return World(tmp_path / name).plan(stage("seed"), stage("text"), model=f"{HERE}:large")

    run(plan("whole"), reporter=QUIET)
    wanting, folder = plan("full"), tmp_path / "full" / "run"
    with files_no_larger_than(120_000), pytest.raises(CheckpointError) as error:
        run(wanting, reporter=QUIET)
    message = str(error.value)
    assert all(word in message for word in (str(folder), "File too large", "Make room", "goes on from there"))
    assert json.loads((folder / "manifest.json").read_text())["status"] == "failed"
    assert not list(folder.glob("stages/*/checkpoint")), "a checkpoint that is not whole is not there"
    assert run(wanting, reporter=QUIET)["status"] == "completed"
    assert weights(folder) == weights(tmp_path / "whole" / "run")

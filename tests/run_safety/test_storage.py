"""A disk that fills up, or a folder that may not be written to: said in words, nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError, SelfRewardingError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.run_folder.faults import storage_error
from tests.run_safety.worlds import forked
from tests.stages.worlds import QUIET, plan, rows, weights, without_seconds

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a forked process")


def within(num_bytes: int, work: Callable[[], Any]) -> Callable[[], None]:
    """`work` where no file may grow over so many bytes; what it is told is printed."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
        try:
            work()
        except SelfRewardingError as error:
            print(f"{type(error).__name__}: {error}")

    return limited


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(plan(folder, "text", "given"), reporter=QUIET)


@needs_fork
@pytest.mark.parametrize("room", ["a little", "for shards", "for all but a checkpoint"])
def test_a_disk_that_is_full_is_said_and_the_same_command_goes_on_when_there_is_room(
    room: str, whole: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    checkpoint = max((whole[0] / "stages/01-text/checkpoint").iterdir(), key=lambda p: p.stat().st_size)
    shard = max(whole[0].rglob("candidates/*.parquet"), key=lambda p: p.stat().st_size)
    sizes = {
        "a little": (whole[0] / "plan.yaml").stat().st_size - 100,
        "for shards": shard.stat().st_size - 10,
        "for all but a checkpoint": checkpoint.stat().st_size - 10,
    }
    settings = plan(folder, "text", "given")
    code, out = forked(within(sizes[room], lambda: run(settings, reporter=QUIET)), tmp_path)
    assert code == 0, out
    said = " ".join(out.split())
    assert "CheckpointError: the run folder" in said
    assert str(folder) in said
    assert "MiB are free" in said
    assert "the same command goes on" in said
    assert not list(folder.rglob(".*.tmp")), "nothing half-written is left"
    assert not (folder / "run.lock").exists()
    for file in folder.rglob("*.parquet"):
        pq.read_table(file)
    summary = run(settings, reporter=QUIET)
    assert weights(folder) == weights(whole[0])
    assert rows(folder) == rows(whole[0])
    assert without_seconds(summary) == without_seconds(whole[1])


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Whose parents every user may enter."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@needs_fork
def test_a_run_folder_that_may_not_be_written_to_is_refused_before_anything(open_folder: Path) -> None:
    folder = open_folder / "run"
    folder.mkdir(mode=0o555)
    (open_folder / "out.txt").touch(mode=0o666)

    def as_anybody() -> None:
        if os.getuid() == 0:  # who may write everywhere
            os.setuid(65534)
        try:
            run(plan(folder, "seed", model="no_such_module:factory"), reporter=QUIET)
        except ConfigError as error:
            print(error)

    code, out = forked(as_anybody, open_folder)
    assert code == 0, out
    assert f"the run folder {folder} cannot be written to (Permission denied)" in " ".join(out.split())
    assert not list(folder.iterdir())


def test_only_faults_of_the_run_folder_are_taken_for_its_own(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = full
    in_rust = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    in_arrow = pa.ArrowInvalid("[Errno 27] Error writing bytes to file. Detail: [errno 27] File too large")
    for error in (full, wrapped, in_rust, in_arrow):
        assert isinstance(storage_error(error, tmp_path), CheckpointError)
    inside = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a" / "b"))
    elsewhere = PermissionError(errno.EACCES, "Permission denied", "/somewhere/else")
    assert storage_error(inside, tmp_path) is not None
    for error in (elsewhere, ValueError("no"), ConnectionRefusedError(errno.ECONNREFUSED, "refused")):
        assert storage_error(error, tmp_path) is None

"""One process writes a run folder at a time; what a killed one left is no lock."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.run_folder import lock
from self_rewarding_lm_pytorch.run_folder.lock import HOLDER, LOCK, locked
from tests.run_safety.worlds import forked, srlm, waited
from tests.stages.worlds import QUIET, plan, weights

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a second process")


def holding(folder: Path) -> int:
    """The id of a process that holds the folder, and will until it is killed."""
    child = os.fork()
    if child == 0:
        with locked(folder, QUIET):
            (folder / "is-held").touch()
            time.sleep(60)
        os._exit(0)
    deadline = time.monotonic() + 20
    while not (folder / "is-held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return child


@needs_fork
def test_a_run_folder_in_use_is_refused_with_who_uses_it_and_a_killed_run_holds_nothing(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    run(plan(folder, "seed"), reporter=QUIET)
    before = weights(folder)
    child = holding(folder)
    try:
        for fresh in (False, True):
            with pytest.raises(CheckpointError) as error:
                run(plan(folder, "seed"), reporter=QUIET, fresh=fresh)
            for part in (f"process {child} on {os.uname().nodename}", "since 20", "another run folder"):
                assert part in str(error.value)
        code, out = forked(srlm("demo", "--run-dir", str(folder), "--fresh", "--quiet"), tmp_path)
        assert code == 1
        assert f"is in use by process {child}" in " ".join(out.split())
        assert weights(folder) == before, "nothing was removed"
    finally:
        os.kill(child, signal.SIGKILL)
        waited(child)
    assert (folder / LOCK).exists(), "what the killed process left"
    assert (folder / HOLDER).exists()
    assert run(plan(folder, "seed"), reporter=QUIET, fresh=True)["status"] == "completed"
    assert not (folder / LOCK).exists()


@needs_fork
def test_the_published_interface_is_refused_too(tmp_path: Path) -> None:
    from tests.published.worlds import external, tiny, trainer

    child = holding(tmp_path)
    try:
        with pytest.raises(CheckpointError, match="is in use by process"):
            trainer(tiny(), [external()], tmp_path)(overwrite_checkpoints=True)
    finally:
        os.kill(child, signal.SIGKILL)
        waited(child)


def test_who_holds_a_folder_stands_in_it_only_while_it_does(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with locked(folder, QUIET):
        holder = json.loads((folder / HOLDER).read_text())
        assert holder["pid"] == os.getpid()
        assert holder.keys() == {"pid", "host", "started"}
        with pytest.raises(CheckpointError, match=f"process {os.getpid()}"), locked(folder, QUIET):
            pass
        assert (folder / LOCK).exists(), "one that was refused lets the holder's lock stand"
    assert not (tmp_path / "a").exists(), "nothing was written, so nothing is left"
    with locked(folder, QUIET):
        (folder / "manifest.json").touch()
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_a_folder_is_let_go_however_a_run_ends(tmp_path: Path) -> None:
    def fails(env: Any, number: int, stage: Any) -> None:
        raise RuntimeError("cut off")

    settings = plan(tmp_path / "run", "seed")
    with pytest.raises(RuntimeError, match="cut off"):
        run(settings, reporter=QUIET, after_stage=fails)
    assert not (tmp_path / "run" / LOCK).exists()
    assert run(settings, reporter=QUIET)["status"] == "completed"


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cannot(self: Any, *arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.FileLock, "acquire", cannot)
    assert run(plan(tmp_path / "run", "seed"), reporter=QUIET)["status"] == "completed"
    assert "has no locks" in capsys.readouterr().out


def test_a_run_folder_that_cannot_be_made_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    settings = plan(tmp_path / "file" / "run", "seed", model="no_such_module:factory")
    with pytest.raises(ConfigError, match=r"file/run cannot be written to \(Not a directory\)"):
        run(settings, reporter=QUIET)
    assert (tmp_path / "file").read_text() == "mine"

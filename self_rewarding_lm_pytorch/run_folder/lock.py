"""One process at a time writes a run folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.progress import Reporter

LOCK = "run.lock"
HOLDER = "run.lock.json"  # beside the lock: Windows lets nobody read a locked file


@contextmanager
def locked(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Holds the run folder for this process (on several, for the main one), and makes it if need be.

    The kernel's lock, which ends with its process however that ends: what a killed run left is no lock. A
    file system that cannot lock is used without one, with a warning. What this made is gone afterwards
    where nothing else was written. Raises CheckpointError where another process holds the folder, and
    ConfigError where the folder cannot be written to.
    """
    lock, made = processes.on_main(lambda: _taken(folder, reporter)) or (None, [])
    try:
        yield
    finally:
        if processes.is_main():
            _given_back(folder, lock, made)


def _taken(folder: Path, reporter: Reporter) -> tuple[_Held | None, list[Path]]:
    made, held = [place for place in (folder, *folder.parents) if not place.exists()], None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _Held(folder)
        (folder / HOLDER).write_text(json.dumps(_myself()) + "\n", encoding="utf-8")
        return held, made
    except Timeout:
        raise CheckpointError(_in_use(folder)) from None
    except OSError as error:
        _given_back(folder, held, made)
        raise ConfigError(
            f"the run folder {folder} cannot be written to ({error.strerror or error}), so nothing that the "
            "run makes could be kept; give a folder that this user may write to (run: in the plan, --run-dir "
            "of the demo), or make room there"
        ) from error
    except NotImplementedError:
        reporter.warn(
            f"the file system of {folder} has no locks, so nothing keeps a second run out of this folder; "
            "see to it that there is none"
        )
        return None, made


class _Held:
    """The lock, held. It is not pickled to other processes, who have no use for it."""

    def __init__(self, folder: Path) -> None:
        # A lock that is only a file would stand after a kill; without the kernel's there is none.
        self._lock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except OSError as error:
            if isinstance(error, Timeout) or not _has_no_locks(error):
                raise
            raise NotImplementedError from error

    def release(self) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _has_no_locks(error: OSError) -> bool:
    return error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def _given_back(folder: Path, lock: _Held | None, made: list[Path]) -> None:
    with contextlib.suppress(OSError):
        (folder / HOLDER).unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)  # while it is held: whoever waits on it opens a new one
    if lock is not None:
        lock.release()
    with contextlib.suppress(OSError):  # not empty: something was written
        for place in made:
            place.rmdir()


def _myself() -> dict[str, str | int]:
    started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started}


def _in_use(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
        end = f"end it (kill {holder['pid']} on {holder['host']} stops it where what it did is stored)"
    except (OSError, ValueError, KeyError, TypeError):
        who, end = "another process", "end it"
    return (
        f"{folder} is in use by {who}; two runs in one folder would overwrite each other. Wait until that "
        f"one is done, {end}, or name another run folder"
    )

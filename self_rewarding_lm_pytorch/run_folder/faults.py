"""A run folder that can no longer be written to: said in words, with nothing half-written left."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from self_rewarding_lm_pytorch.errors import CheckpointError

_ERRNOS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO")
    if hasattr(errno, name)
}
_SAID = ("No space left on device", "Disk quota exceeded", "File too large", "Read-only file system")
"""Libraries in other languages hide the number and keep the words."""


def storage_error(error: BaseException, folder: Path) -> CheckpointError | None:
    """The error to raise instead where the cause is that the run folder cannot be written to, else None."""
    cause = _cause(error, folder)
    if cause is None:
        return None
    free = "its free space cannot be told"
    with contextlib.suppress(OSError):
        free = f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
    return CheckpointError(
        f"the run folder {folder} could not be written to: {cause!s:.300} ({free}). All that was stored "
        "before is whole and kept, and nothing half-written stands under its final name. Make room or let it "
        "be written to, and the same command goes on from there"
    )


@contextmanager
def said_of(folder: Path) -> Iterator[None]:
    """An error inside that the folder causes is raised as `storage_error` puts it."""
    try:
        yield
    except Exception as error:
        if (full := storage_error(error, folder)) is not None:
            raise full from error
        raise


def unfinished(folder: Path) -> list[Path]:
    """Files and folders that were being written, or removed, under their temporary names."""
    places = [folder / name for name in ("stages", "evaluation", "report_cards", "trackers")]
    return [*(path for place in places for path in place.rglob(".*.tmp")), *folder.glob(".*.tmp")]


def remove_unfinished(folder: Path) -> None:
    """Removes those; the run has to hold the lock."""
    for path in unfinished(folder):
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _cause(error: BaseException | None, folder: Path) -> BaseException | None:
    """Of an error and those it came from, the one about storage."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if _is_about_storage(error, folder):
            return error
        error = error.__cause__ or error.__context__
    return None


def _is_about_storage(error: BaseException, folder: Path) -> bool:
    if any(words in str(error) for words in _SAID):
        return True
    if not isinstance(error, OSError) or error.errno not in _ERRNOS:
        return False
    # An error that names a file elsewhere is not about the run folder.
    if not isinstance(error.filename, str | Path):
        return error.errno in (errno.ENOSPC, errno.EFBIG)
    return Path(error.filename).resolve().is_relative_to(folder.resolve())

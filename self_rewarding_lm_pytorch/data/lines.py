"""Lines of a text file, plain or packed, with the place of what is no text."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from self_rewarding_lm_pytorch.errors import DataError

PACKED = (".gz", ".bz2", ".xz")
"""Behind a text file's own ending: unpacked while it is read."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Excel begins its files with one


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked. Raises DataError where a packed file is none, or is cut off."""
    import bz2
    import gzip
    import lzma

    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    ending = path.suffix.lower()
    if ending not in openers:
        with path.open("rb") as file:
            yield file
        return
    try:
        with openers[ending](path, "rb") as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _broken(path, ending, error) from error
    except OSError as error:  # bz2's own have no number
        raise error if error.errno is not None else _broken(path, ending, error) from error


def _broken(path: Path, ending: str, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be unpacked as {ending}: {error}. It may have been cut off, or be another kind of "
        "file: copy or pack it again"
    )


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that the system does not let us read."""
    return DataError(
        f"{path} cannot be read: {error.strerror or error}; look at its permissions and its disk"
    )


def lines(path: Path, most: int = -1) -> Iterator[tuple[int, str]]:
    """Each line with its number, from 1, and its end. Raises DataError where it is no text.

    most: bytes; a longer line comes in parts, each with the line's number. No part ends inside a character.
    """
    begins, number = 0, 1
    with _opened(path) as file:
        while raw := file.readline(most):
            raw += file.read(_num_missing(raw))
            line = raw.removeprefix(_BYTE_ORDER_MARK) if not begins else raw
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                place = begins + len(raw) - len(line) + error.start
                raise DataError(
                    f"{path} is not UTF-8 text at byte {place}; save it as UTF-8. Line {number} holds "
                    f"{line[max(0, error.start - 10) : error.end + 10]!r}"
                ) from error
            if "\0" in text:
                raise DataError(
                    f"{path}, line {number}, column {text.index(chr(0)) + 1}: a NUL byte, as files hold that "
                    "were cut off while being written, or that are UTF-16; write it again, as UTF-8"
                )
            yield number, text
            begins += len(raw)
            number += raw.endswith(b"\n")


def _num_missing(raw: bytes) -> int:
    """How many bytes of UTF-8 the last character lacks."""
    for back in range(1, min(4, len(raw) + 1)):
        byte = raw[-back]
        if byte >= 0xC0:
            return max(0, 2 + (byte >= 0xE0) + (byte >= 0xF0) - back)
        if byte < 0x80:
            break
    return 0

"""JSON of a line, or of a file whose values are decoded one at a time, so that it may be of any size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.lines import lines
from self_rewarding_lm_pytorch.errors import DataError

PIECE = 1 << 16
"""Bytes of a file that are read at a time; a value that is longer is read on until it is whole."""
_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST_TOKEN = 16  # characters of a word or an escape, which stand for nothing until they are whole


def json_value(text: str, path: Path, line: int) -> Any:
    """The value that a text is. path, line: where the text begins. Raises DataError with the place."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise _no_json(text, error.pos, error.msg, path, line) from error
    except (ValueError, RecursionError) as error:
        raise _no_value(text, error, path, line) from error


def json_file(path: Path) -> Iterator[Any]:
    """The items of the list that a file holds, or its values where it holds one after the other (JSON Lines).

    Raises DataError with the line, as soon as it is come to; and where the file is a single other value.
    """
    unread = _Unread(path)
    if unread.peek() == "[":
        yield from _items(unread)
        return
    first = unread.value()
    if not unread.peek():
        raise DataError(
            f"{path} holds one {type(first).__name__}; expected a JSON list of items, or an item in each line"
        )
    yield first
    while unread.peek():
        yield unread.value()


def _items(unread: _Unread) -> Iterator[Any]:
    mark = unread.take("[")
    if unread.peek() == "]":
        mark = unread.take("]")
    while mark != "]":
        yield unread.value()
        mark = unread.take(",]")
    if unread.peek():
        raise unread.fault("Extra data")


class _Unread:
    """What of a file's text has not been decoded yet."""

    def __init__(self, path: Path) -> None:
        self._path, self._pieces = path, lines(path, PIECE)
        self._text, self._at = "", 0  # all before `_at` is decoded
        self._line, self._gone = (
            1,
            0,
        )  # of the text's first character: its line, and what stood before it there

    def peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, marks: str) -> str:
        """The next character, which must be one of the marks."""
        found = self.peek()
        if not found or found not in marks:
            raise self.fault(f"Expecting {' or '.join(map(repr, marks))}")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not (self._may_go_on(error) and self._more()):
                    raise self.fault(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise _no_value(self._text[self._at :], error, self._path, self._line_of(self._at)) from error
            else:
                if end + 2 < len(self._text) or not self._more():  # "1e-" may be a number that goes on
                    self._at = end
                    return value

    def fault(self, message: str, place: int | None = None) -> DataError:
        """place: in the text; default where the next value begins."""
        place = self._at if place is None else place
        return _no_json(self._text, place, message, self._path, self._line, self._gone)

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Whether the text may be wrong only because it ends."""
        is_at_end = not self._text[error.pos + _LONGEST_TOKEN :].strip()
        return is_at_end or error.msg.startswith("Unterminated string")

    def _more(self) -> bool:
        """Reads on, at least as much again, and forgets what is decoded; False at the end of the file."""
        size, pieces = 0, list[str]()
        for _, piece in self._pieces:
            pieces.append(piece)
            size += len(piece)
            if size >= max(PIECE, len(self._text) - self._at):
                break
        if not pieces:
            return False
        begin = self._text.rfind("\n", 0, self._at) + 1
        self._gone = self._at - begin + (0 if begin else self._gone)
        self._line = self._line_of(self._at)
        self._text, self._at = self._text[self._at :] + "".join(pieces), 0
        return True

    def _line_of(self, place: int) -> int:
        return self._line + self._text.count("\n", 0, place)


class _TwiceError(ValueError):
    """A key of an object is given twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _no_json(text: str, place: int, message: str, path: Path, line: int, gone: int = 0) -> DataError:
    """gone: how many characters stood before the text in its first line."""
    begin = text.rfind("\n", 0, place) + 1
    wrong, column = text[begin:].partition("\n")[0], place - begin + 1
    start = max(0, min(column - 40, len(wrong) - 60))
    return DataError(
        f"{path}, line {line + text.count(chr(10), 0, place)}: not JSON ({message} at column "
        f"{column + (0 if begin else gone)}): {wrong[start : start + 60]!r}; mend that line or take it out"
    )


def _no_value(text: str, error: Exception, path: Path, line: int) -> DataError:
    where = f"{path}, line {line}"
    if isinstance(error, _TwiceError):
        return DataError(
            f"{where}: the key {str(error)!r} is given twice in one item, and only one of them could count; "
            f"take one out of {text[:60]!r}"
        )
    # Numbers of thousands of digits, a thousand brackets.
    return DataError(
        f"{where}: not read as JSON ({error!s:.100}): {text[:60]!r}; mend that line or take it out"
    )

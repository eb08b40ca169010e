"""Ctrl-C and SIGTERM end a run where a unit of its work is stored, not in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.errors import ProcessError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked: list[int] = []  # signals that came since `deferred` began
_is_deferring = False


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end, and what it was doing is stored."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def deferred() -> Iterator[None]:
    """The first signal inside waits for the next `unit_done`; a second one ends the program at once.

    In another thread than the main one, where Python allows no handlers, signals do what they did.
    """
    global _is_deferring
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, is_inner = {number: signal.signal(number, _ask) for number in _SIGNALS}, _is_deferring
    if not is_inner:  # a run inside another one's `after_stage` ends with it
        _asked.clear()
    _is_deferring = True
    try:
        yield
    except ProcessError:
        before[signal.SIGTERM] = _ignored_once(before[signal.SIGTERM])
        raise
    finally:
        _is_deferring = is_inner
        for number, handler in before.items():
            signal.signal(number, handler)


def unit_done() -> None:
    """Called by every process where the run can be gone on from; raises Interrupted where a signal came."""
    if not _is_deferring:
        return
    found = next((number for number in processes.gathered(_asked[0] if _asked else 0) if number), 0)
    if found:
        raise Interrupted(found)


def is_asked() -> bool:
    """Whether this process has been asked to end."""
    return bool(_asked) and _is_deferring


def _ignored_once(then: Any) -> Callable[[int, FrameType | None], None]:
    """A launcher ends the others as soon as one has died; what they have to say of it comes first."""

    def ignore(number: int, frame: FrameType | None) -> None:
        signal.signal(number, then)

    return ignore


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    if len(_asked) > 1:
        raise Interrupted(number)
    if processes.is_main():
        # Not sys.stderr, which the signal may have come in the middle of.
        os.write(2, b"\nending once what is under way is stored; the same signal again ends at once\n")

"""A call of a user's function that may take so long and no longer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

_AGAIN = 5.0  # seconds until the alarm rings again, should the function have swallowed the first


class TimedOut(BaseException):
    """The time is over. No Exception, so that a function's own `except Exception` lets it through."""


def within(seconds: float | None, work: Callable[[], T]) -> T:
    """What `work` gives; raises TimedOut once it has taken `seconds`. None: it may take any time.

    In the main thread it is ended by SIGALRM, which also ends sleeping, waiting for a socket and a runaway
    regular expression; a function that sets alarms of its own takes the limit away. Elsewhere, and on
    Windows, where there is no such signal, a thread does the work, which goes on behind our back when its
    time is over.
    """
    if seconds is None:
        return work()
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        return _by_alarm(seconds, work)
    return _by_thread(seconds, work)


def _by_alarm(seconds: float, work: Callable[[], T]) -> T:
    is_over = False

    def ring(number: int, frame: FrameType | None) -> None:
        if not is_over:
            raise TimedOut

    handler = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        return work()
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)  # None: not Python's


def _by_thread(seconds: float, work: Callable[[], T]) -> T:
    done: list[T] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            done.append(work())
        except BaseException as error:  # raised again by whoever waits
            failed.append(error)

    worker: Any = threading.Thread(target=target, daemon=True, name="reward function")
    worker.start()
    worker.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimedOut
    return done[0]

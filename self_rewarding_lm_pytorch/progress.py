"""Live progress with rates and time left; plain lines where there is no terminal.

What is said may hold text of data files, models and servers: it is printed as it is, never as markup, and
what a terminal would act on is written out. All of it goes to the package's logger as well, lines and tables
as INFO, warnings as WARNING, for applications that want it.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

LOGGER = logging.getLogger("self_rewarding_lm_pytorch")
LOGGER.addHandler(logging.NullHandler())

_SECONDS_BETWEEN_LINES = 10.0
_WIDE = 400
# Control characters, what turns the direction of the text around it, what shows as nothing, half characters.
_ACTED_ON = re.compile(
    "[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ud800-\\udfff\\ufeff"
    "\\U000e0000-\\U000e007f]"
)


def printable(text: str) -> str:
    r"""The text with what a terminal would act on, not show, as JSON's escapes (escape itself as \u001b).

    Line breaks and tabs stay. JSON stays JSON with the same content.
    """
    return text if text.isascii() and text.isprintable() else _ACTED_ON.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", errors="surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


class Phase:
    """One piece of work under way."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label = printable(label)
        self.total = total
        self.unit = unit
        self.done = 0
        self.note = ""
        self.started = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = printable(note) or self.note

    @property
    def rate(self) -> float:
        return self.done / max(time.monotonic() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.rate if self.done else None


class Reporter:
    """Where a run says what it does. `quiet` says nothing but warnings and tables.

    stderr: whether it says so on standard error. logs: whether what `quiet` does not show is logged all the
    same; what is shown is always logged.
    """

    def __init__(self, *, quiet: bool = False, stderr: bool = False, logs: bool = False) -> None:
        from rich.console import Console  # here, as importing the library should cost little

        self._console = Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)
        if not self._console.is_terminal:
            self._console.width = _WIDE  # a file or a pipe has no edge to wrap at
        self._quiet = quiet
        self._logs = logs or not quiet
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        if self._logs:
            LOGGER.info("%s", printable(text))
        if not self._quiet:
            self._console.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        LOGGER.warning("%s", printable(text))
        self._console.print(f"warning: {printable(text)}", markup=False, style="yellow")

    def say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def lines(self, lines: Sequence[str], indent: str = "    ") -> None:
        for line in lines:
            self.say(indent + line)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(printable(title), "table.title"), title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(Text(printable(column)), justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        LOGGER.info("%s", printable(title))
        for cells in (columns, *rows):
            LOGGER.info("%s", printable(" | ".join(cells)))
        self._console.print(table)

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Phase]:
        """Shows a phase while it runs, and one line when it is done."""
        phase = Phase(label, total, unit)
        if self._quiet:
            yield phase
        elif self._console.is_terminal:
            with self._bar(phase):
                yield phase
        else:
            with self._plain_lines(phase):
                yield phase
        seconds = time.monotonic() - phase.started
        self.say(f"  {label}: {phase.done:,} {unit} in {seconds:.1f} s ({phase.rate:,.1f}/s) {phase.note}")

    @contextmanager
    def _bar(self, phase: Phase) -> Iterator[None]:
        from rich import progress as bars

        columns = (
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[rate]}", markup=False),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}", markup=False),
        )
        with bars.Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(phase.label, total=phase.total, rate="", note="")
            advance = phase.advance

            def shown(count: int = 1, note: str = "") -> None:
                advance(count, note)
                rate = f"{phase.rate:,.1f} {phase.unit}/s"
                progress.update(task, completed=phase.done, rate=rate, note=phase.note)

            phase.advance = shown  # type: ignore[method-assign]
            yield

    @contextmanager
    def _plain_lines(self, phase: Phase) -> Iterator[None]:
        advance = phase.advance
        last = time.monotonic()

        def shown(count: int = 1, note: str = "") -> None:
            nonlocal last
            advance(count, note)
            now = time.monotonic()
            if now - last >= _SECONDS_BETWEEN_LINES:
                last = now
                left = phase.seconds_left
                tail = f", {left:.0f} s left" if left is not None else ""
                self.say(
                    f"  {phase.label}: {phase.done:,} of {phase.total:,} {phase.unit}, "
                    f"{phase.rate:,.1f}/s{tail} {phase.note}"
                )
                sys.stdout.flush()

        phase.advance = shown  # type: ignore[method-assign]
        yield

"""Live progress with rates and time left; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

_SECONDS_BETWEEN_LINES = 10.0
_WIDE = 400


class Phase:
    """One piece of work under way."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self.note = ""
        self.started = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note

    @property
    def rate(self) -> float:
        return self.done / max(time.monotonic() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.rate if self.done else None


class Reporter:
    """Where a run says what it does. `quiet` says nothing but warnings."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=False, highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            self._console.width = _WIDE  # a file or a pipe has no edge to wrap at
        self._quiet = quiet
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self._console.print(f"warning: {text}", markup=False, style="yellow")

    def say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def lines(self, lines: Sequence[str], indent: str = "    ") -> None:
        for line in lines:
            self.say(indent + line)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
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
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
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

"""What a run says: plain lines without a terminal, a bar on one, and nothing but warnings when quiet."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from self_rewarding_lm_pytorch import progress
from self_rewarding_lm_pytorch.progress import Phase, Reporter


def test_without_a_terminal_a_phase_is_one_plain_line_when_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporter = Reporter()
    with reporter.phase("training", 3, "steps") as phase:
        for loss in (3.0, 2.0, 1.5):
            phase.advance(note=f"loss {loss:.3f}")
    out = capsys.readouterr().out
    assert re.fullmatch(r"  training: 3 steps in \d+\.\d s \([\d,.]+/s\) loss 1\.500\n", out)
    assert "\x1b" not in out


def test_a_long_phase_says_how_far_it_is_how_fast_and_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = Reporter()
    with reporter.phase("shard 1: answers", 1000, "answers") as phase:
        for _ in range(4):
            now[0] += 6.0
            phase.advance(150)
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines] == [
        "shard 1: answers: 300 of 1,000 answers, 25.0/s, 28 s left",
        "shard 1: answers: 600 of 1,000 answers, 25.0/s, 16 s left",
        "shard 1: answers: 600 answers in 24.0 s (25.0/s)",
    ]


def test_a_long_line_is_not_broken_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().say("x" * 300 + " y" * 100)
    assert capsys.readouterr().out.count("\n") == 1


def test_text_with_brackets_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.say("[bold]not markup[/bold] [/x]")
    reporter.warn("[red]x[/y]")
    out = capsys.readouterr().out
    assert "[bold]not markup[/bold] [/x]" in out
    assert "warning: [red]x[/y]" in out


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    reporter, screen = Reporter(), io.StringIO()
    reporter._console = Console(file=screen, force_terminal=True, width=160)
    with reporter.phase("training", 4, "steps") as phase:
        for _ in range(4):
            phase.advance(note="loss 1.0")
    shown = screen.getvalue()
    assert "4/4" in shown
    assert "steps/s" in shown
    assert "loss 1.0" in shown


def test_quiet_says_warnings_and_tables_only(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(quiet=True)
    reporter.say("news")
    reporter.say_once("news")
    reporter.lines(["a", "b"])
    with reporter.phase("training", 1, "steps") as phase:
        phase.advance()
    assert phase.done == 1
    assert capsys.readouterr().out == ""
    reporter.warn("fewer pairs than asked for")
    reporter.table("closing", ["model", "score"], [["M1", "3.1"]])
    out = capsys.readouterr().out
    assert "warning: fewer pairs" in out
    assert "M1" in out


def test_what_is_said_once_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    for _ in range(3):
        reporter.say_once("no cache")
    assert capsys.readouterr().out == "no cache\n"


def test_a_table_that_is_wider_than_eighty_columns_keeps_every_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = "runs/a-long-name/stages/03-second-self-reward/checkpoint"
    Reporter().table("t", ["stage", "checkpoint"], [["first " * 8, path]])
    assert path in capsys.readouterr().out


def test_a_phase_that_did_nothing_has_no_time_left_to_tell() -> None:
    phase = Phase("x", 10, "steps")
    assert phase.seconds_left is None
    phase.advance(5)
    assert phase.seconds_left is not None


def test_an_error_inside_a_phase_comes_out_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="inside"), Reporter().phase("training", 2, "steps"):
        raise ValueError("inside")
    assert "in 0.0 s" not in capsys.readouterr().out, "a phase that broke off is not reported as done"

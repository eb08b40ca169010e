"""What is printed cannot act on the terminal, and is never taken for markup."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from rich.console import Console

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.progress import Reporter, printable
from tests.cli.test_cli import Command, srlm
from tests.hostile.texts import EVERYTHING, TERMINAL, UNSEEN, hostile

__all__ = ["srlm"]  # the fixture

# What acts: control characters but line break and tab, and what turns the direction or shows as nothing.
ACTS = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
OWN_STYLES = re.compile(r"\x1b\[[0-9;]*m")  # of the reporter itself, for its warnings and tables


@settings(max_examples=200, deadline=None)
@given(hostile)
def test_printable_text_acts_on_nothing_and_json_stays_json(text: str) -> None:
    shown = printable(text)
    assert not ACTS.search(shown)
    shown.encode()  # anything can be written
    if not ACTS.search(text) and "\U000e0041" not in text:
        assert shown == text
    said = json.dumps({"text": text}, ensure_ascii=False)
    assert json.loads(printable(said)) == {"text": text}


def reported(capsys: pytest.CaptureFixture[str], text: str) -> str:
    reporter = Reporter()
    reporter.say(text)
    reporter.warn(text)
    reporter.lines([text])
    reporter.table(f"title {text}", [f"column {text}"], [[f"cell {text}"]])
    with reporter.phase(f"phase {text}", 1, "units") as phase:
        phase.advance(note=f"note {text}")
    echo(text)
    return capsys.readouterr().out


@pytest.mark.parametrize("text", [*TERMINAL, *UNSEEN, "[red]x[/y]", "a [b] :warning: {0} %s"])
def test_nothing_that_is_reported_acts_and_nothing_is_markup(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    out = reported(capsys, text)
    assert not ACTS.search(out)
    if text.strip() and text.isprintable() and not set(text) & {"\u0301", "\u200d"}:
        assert out.count(text) == 9, "said three times, title, column, cell, phase with its note, echo"


@pytest.mark.parametrize("text", [*TERMINAL, "[red]x[/y]"])
def test_a_terminal_gets_the_reporters_own_codes_alone(text: str) -> None:
    reporter, screen = Reporter(), io.StringIO()
    reporter._console = Console(
        file=screen, force_terminal=True, width=300, legacy_windows=False, emoji=False
    )
    reporter.say(f"say {text}.")
    reporter.warn(f"warn {text}.")
    reporter.table(f"title {text}.", ["column"], [[f"cell {text}."]])
    shown = OWN_STYLES.sub("", screen.getvalue())
    assert not ACTS.search(shown)
    if text.isprintable():
        for name in ("say", "warn", "title", "cell"):
            assert f"{name} {text}." in shown


@pytest.mark.parametrize("text", ["[red]x[/y]", "[bold", "a[/]b", "\x1b[31mx"])
def test_the_bar_of_a_terminal_shows_its_label_as_text(text: str) -> None:
    reporter, screen = Reporter(), io.StringIO()
    reporter._console = Console(file=screen, force_terminal=True, width=200, legacy_windows=False)
    with reporter.phase(f"label {text}.", 2, "units") as phase:
        phase.advance(note=f"note {text}.")
        phase.advance()
    moves = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
    shown = moves.sub("", screen.getvalue())
    assert "\x1b" not in shown
    assert f"label {printable(text)}." in shown and f"note {printable(text)}." in shown


def test_no_hostile_text_breaks_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    for text in EVERYTHING[::7]:
        assert not ACTS.search(reported(capsys, text[:200]))


def test_commands_print_hostile_names_and_data_harmlessly(
    srlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in a plan, of a column and of a file, as `plan`, `report-card` and `export` print them."""
    monkeypatch.chdir(tmp_path)
    evil = "x\x1b[31m[red]\u202e:smile:"
    rows = [{"prompt": f"{evil}?", "responses": [evil, "no"], "scores": [5, 1]}]
    (tmp_path / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text("def f(prompts, texts):\n    return [float(len(t)) for t in texts]\n")
    (tmp_path / "seed.jsonl").write_text(json.dumps({"prompt": evil, "response": evil}) + "\n")
    plan = {"model": "tiny", "run": "runs/x", "stages": [{"name": evil, "kind": "sft", "data": "seed.jsonl"}]}
    (tmp_path / f"plan{evil}.yaml").write_text(json.dumps(plan))
    results = [
        srlm("report-card", "reward.py:f", "judged.jsonl"),
        srlm("report-card", "reward.py:f", "judged.jsonl", "--json"),
        srlm("plan", f"plan{evil}.yaml"),
        srlm("plan", f"plan{evil}.yaml", "--json"),
        srlm("export", f"no{evil}such"),
        srlm("report", f"no{evil}such"),
    ]
    assert results[0][0] == 0 and json.loads(results[1][1])
    for code, out, _ in results:
        assert not ACTS.search(OWN_STYLES.sub("", out)), code

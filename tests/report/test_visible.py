"""What cannot be seen is written out; what writing needs stays."""

from __future__ import annotations

import pytest

from self_rewarding_lm_pytorch.report.visible import visible

HIDDEN = (
    "\u00ad\u034f\u115f\u1160\u180e\u200b\u2028\u2029\u202e\u2800\u3164\ufeff\uffa0"
    "\U000e0000\U000e0041\U000e007f"
)


@pytest.mark.parametrize("char", HIDDEN, ids=lambda char: f"U+{ord(char):04X}")
def test_a_character_that_shows_as_nothing_is_written_out(char: str) -> None:
    assert visible(f"a{char}b") == f"a⟨U+{ord(char):04X}⟩b"


@pytest.mark.parametrize(
    "text", ["\u0645\u06cc\u200c\u062e", "👩\u200d💻", "क\u094d\u200dष", "❤\ufe0f", "a\tb\nc", "한글"]
)
def test_joiners_and_line_ends_stay(text: str) -> None:
    assert visible(text) == text

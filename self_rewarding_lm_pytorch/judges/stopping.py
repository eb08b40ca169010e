"""When a judge's vote ends before its budget: its score is written, or a stop string is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.quotations import CLOSING_MARKS
from self_rewarding_lm_pytorch.text import Codec, Reasoning


class VoteStop:
    """Asked after each token with a vote's tokens so far; True ends it.

    parser: the vote ends once a line is complete up to which this parser reads a score, and one begins
        as the score's pattern does; None: never. It ends, too, where the parser's time runs out: more text
        would not be read faster, and to try again at each line would cost that time again.
    strings: the vote ends once its text contains one of them.
    reasoning: how the judge reasons before its verdict; nothing in there ends the vote.

    Most tokens cannot end a vote, and one look at such a token is enough for all votes: the text is
    decoded only behind a token that can hold a line break or the last character of a stop string.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        parser: ScoreParser | None = None,
        strings: Sequence[str] = (),
        reasoning: Reasoning | None = None,
    ) -> None:
        self._reasoning = reasoning
        self._codec = codec
        self._parser = parser
        self._strings = tuple(strings)
        self._last = {string[-1] for string in self._strings}
        self._looks: dict[int, tuple[bool, bool]] = {}  # token -> may complete (a line, a stop string)

    def __call__(self, ids: Sequence[int]) -> bool:
        if not ids:
            return False
        may_end_line, may_end_string = self._look(ids[-1])
        if not (may_end_line or may_end_string):
            return False
        written = self._decoded(ids)
        text = written if self._reasoning is None else self._reasoning.answer(written)
        if text is None:
            return False
        if may_end_string and any(string in text for string in self._strings):
            return True
        return may_end_line and self._is_scored(text)

    def _look(self, token: int) -> tuple[bool, bool]:
        if token not in self._looks:
            piece = self._decoded((token,))
            line = self._parser is not None and _may_hold(piece, "\n")
            self._looks[token] = (line, any(_may_hold(piece, char) for char in self._last))
        return self._looks[token]

    def _decoded(self, ids: Sequence[int]) -> str:
        try:
            return self._codec.decode(ids)
        except Exception:  # a strict decoder refuses half a character; the rest of it is yet to come
            return ""

    def _is_scored(self, text: str) -> bool:
        assert self._parser is not None
        lines = text[: text.rfind("\n") + 1]
        prefix = (self._parser.literal_prefix or "").strip().casefold()
        starts = (re.sub(r"^\W+", "", line).casefold() for line in lines.splitlines())
        if not any(start.startswith(prefix) for start in starts):
            return False  # a score in passing ("relevance score: 1") is not the one to end with
        parsed = self._parser.parse(lines)
        if (score := parsed.score) is None:
            return parsed.status == "timeout"
        # A quotation that is still open may turn out to hold this score: wait until it is closed.
        others = (text, *(lines + mark for mark in CLOSING_MARKS))
        return all(self._parser.parse(other).score == score for other in others)


def _may_hold(piece: str, char: str) -> bool:
    """Whether a token that alone decodes to `piece` may write `char` behind others.

    A lone token may lack its leading blank, be only a part of a character, or decode to nothing.
    """
    is_blank = char.isspace() and char != "\n"
    is_part = not char.isascii() and "\ufffd" in piece
    return not piece or char in piece or is_blank or is_part

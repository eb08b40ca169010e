"""What a judge quotes is not what it says: quotations that could hold a score are taken out of its text.

Quotations are `<prompt>` and `<response>` tags, marks of many languages, and lines that start with `>`.
"""

# ruff: noqa: RUF001 - characters that look like others are what this file is about
from __future__ import annotations

import regex

# A straight mark opens or closes by where it stands; alone on its line it may do either.
_OPENS, _CLOSES = r'(?<![^\s(\[{:,=*_`\-])(?="+[^ \t"])', r'(?<![ \t\\])(?="+(?!\w))'
_QUOTATIONS = {  # a mark, left alone if the score pattern uses it -> where it opens and closes
    "<response>": regex.compile("(?i)(?P<opens>(?=<r))?(?P<closes>(?=</))?</?response>"),
    "<prompt>": regex.compile("(?i)(?P<opens>(?=<p))?(?P<closes>(?=</))?</?prompt>"),
    '"': regex.compile(rf'(?P<opens>{_OPENS})?(?P<closes>{_CLOSES})?(?<!\\)"++'),
    "„": regex.compile("(?P<opens>(?=„))?(?P<closes>(?=[“”]))?[„“”]"),
    "“": regex.compile(
        "(?P<opens>(?=[“«「『‹〝《]))?(?P<closes>(?=[”»」』›〞〟》]))?[“”«»「」『』‹›〝〞〟《》]"
    ),
}
CLOSING_MARKS = ("</response>", "</prompt>", '"', "”", "」")
"""What ends an open quotation of each kind (one of the last two does for all languages' marks).

Quotations that end with their line are not among them.
"""

_SINGLE_QUOTED = {
    "'": regex.compile(r"(?<![\w\\])'((?:[^'\n]|(?<=\w)'(?=\w))++)'(?!\w)"),
    "‘": regex.compile(r"[‘‚]((?:[^‘’‚\n]|(?<=\w)’(?=\w))++)[‘’](?!\w)"),
}
_QUOTED_LINE = regex.compile(r"(?m)^[ \t]*>.*$")
_COULD_SCORE = regex.compile(r"(?s)(?=.*?\d).*?[^\s*_`\d.,/+-]")  # not "4" or "4/5" on its own
_GUILLEMET = regex.compile("[«»‹›]")
_TURNED = str.maketrans("«»‹›", "»«›‹")


def masked(text: str, pattern: str) -> str:
    """Replaces quotations that could hold a score; `"score": "4"` is JSON, not a quotation.

    pattern: of the score; quotation marks that it uses itself are left alone.
    """
    text = _as_usual(text, pattern)
    for name, mark in _QUOTATIONS.items():
        pieces, done = [], 0
        for start, end in _outer_spans(mark, text) if name not in pattern else []:
            if _COULD_SCORE.match(text[start + 1 : end - 1]):
                pieces += [text[done:start], "\ufffc"]
                done = end
        text = "".join([*pieces, text[done:]])
    for name, quoted in _SINGLE_QUOTED.items():
        if name not in pattern:
            text = quoted.sub(lambda m: "\ufffc" if _COULD_SCORE.match(m[1]) else m[0], text)
    return text if ">" in pattern else _QUOTED_LINE.sub("\ufffc", text)


def _as_usual(text: str, pattern: str) -> str:
    """Marks that some languages use the other way round (»so«), or on both sides (”so”), as the others do."""
    if text.isascii():
        return text
    first = _GUILLEMET.search(text)
    if first is not None and first[0] in "»›" and not _GUILLEMET.search(pattern):
        text = text.translate(_TURNED)
    is_both_sides = "”" in text and "“" not in text and "„" not in text
    return text.replace("”", '"') if is_both_sides and "”" not in pattern else text


def _outer_spans(mark: regex.Pattern[str], text: str) -> list[tuple[int, int]]:
    """Outermost (start, end) of balanced quotations; marks without a partner quote nothing."""
    opened: list[int] = []
    spans: list[tuple[int, int]] = []
    for found in mark.finditer(text):
        if opened and found["closes"] is not None:
            start = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, found.end()))
        elif found["opens"] is not None:
            opened.append(found.start())
    return spans

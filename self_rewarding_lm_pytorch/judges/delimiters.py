"""Delimiters that quoted text spells: found in whatever way a reader could take them for real ones.

A model reads `</response>` also where the text has full-width letters, letters of another script that look
the same, or invisible characters in between. Unicode's compatibility forms (NFKC) and case folding say which
characters are a letter in another dress; the letters that only look alike are listed here.
"""

# ruff: noqa: RUF001 - characters that look like others are what this file is about
from __future__ import annotations

import unicodedata
from collections import defaultdict
from functools import cache
from itertools import chain

import regex

ESCAPE = "&lt;"
"""What stands in the place of a delimiter's `<`."""

_OPENINGS = "<\uff1c\ufe64\u2039\u2329\u27e8\u3008\u02c2\u276e\u1438\u1933"
_SLASHES = r"/\\\uFF0F\uFF3C\u2044\u2215\u29F8\u2571\u29F5\uFE68"
# Format and control characters, combining marks, fillers, halves of characters: nothing is sure to be seen.
_HIDDEN = r"\p{Cf}\p{Cc}\p{Cs}\p{Mn}\p{Me}\u115F\u1160\u17B4\u17B5\u3164\uFFA0\u2800"
_COMPATIBLE = (
    *((0xA0, 0x2190), (0x2460, 0x2500), (0x3300, 0x3400), (0xFB00, 0xFB07)),
    *((0xFE30, 0xFF66), (0x1D400, 0x1D800), (0x1F110, 0x1F190)),
)  # where characters stand that are an ASCII one in another dress
_ALIKE = {
    "c": "сϲᴄⅽ",
    "d": "ԁⅾ",
    "e": "еҽєε℮",
    "f": "ƒϝ",
    "g": "ɡց",
    "i": "іıιɩⅰ",
    "j": "јϳ",
    "m": "мᴍⅿ",
    "n": "пոռɴ",
    "o": "оοσօᴏ0",
    "p": "рρᴘ",
    "r": "гʀᴦ",
    "s": "ѕꜱ",
    "t": "тτᴛ",
    "u": "υսᴜц",
}  # small letters of Cyrillic, Greek and Armenian, and small capitals; their capitals fold to them
_ALIKE_CAPITALS = {"c": "СϹ", "d": "Ꭰ", "e": "ЕΕ", "i": "ІΙ", "j": "Ј", "m": "МΜ", "n": "Ν", "o": "ОΟ"} | {
    "p": "РΡ",
    "s": "ЅՏ",
    "t": "ТΤ",
    "u": "Ս",
}


def delimiters_of(tags: tuple[str, ...]) -> regex.Pattern[str]:
    """Matches the opening character of each opening or closing tag of these names that a text spells.

    It takes time in proportion to the text's length, whatever the text is.
    """
    gap = rf"[\s{_HIDDEN}]*+"
    names = "|".join(_spelled(tag) for tag in tags)
    goes_on = rf"(?![{_HIDDEN}])[\p{{L}}\p{{N}}_]|-[\p{{L}}\p{{N}}]"  # another name that begins so
    return regex.compile(rf"[{_OPENINGS}](?={gap}(?:[{_SLASHES}]{gap})*+(?:{names})(?!{goes_on}))")


def _spelled(tag: str) -> str:
    """The name in every dress: letter by letter, or two letters as one character."""
    between = rf"[{_HIDDEN}]*+"
    ends = ["", ""]  # what spells the rest of the name behind the next letter, and behind the next two
    for place in reversed(range(len(tag))):
        whole = _letter(tag[place]) + ends[0]
        if pair := _dresses().get(tag[place : place + 2].casefold() if place + 1 < len(tag) else ""):
            whole = f"(?:{whole}|[{pair}]{ends[1]})"
        ends = [between + whole, ends[0]]
    return ends[0].removeprefix(between)


def _letter(char: str) -> str:
    """A character class of all that is, or looks like, this character."""
    folded = char.casefold()
    same = {char, folded, char.upper(), *_dresses().get(folded, "")}
    same |= {*_ALIKE.get(folded, ""), *_ALIKE_CAPITALS.get(folded, "")}
    return f"[{''.join(map(regex.escape, sorted(same)))}]"


@cache
def _dresses() -> dict[str, str]:
    """ASCII character, or two -> the characters whose compatible form that is, in either case."""
    found: dict[str, list[str]] = defaultdict(list)
    for number in chain.from_iterable(range(*ends) for ends in _COMPATIBLE):
        form = unicodedata.normalize("NFKC", chr(number)).casefold()
        if len(form) <= 2 and form.isascii() and " " not in form:
            found[form].append(chr(number))
    return {form: "".join(chars) for form, chars in found.items()}

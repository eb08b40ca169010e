"""Text as the page shows it: what cannot be seen is written out."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

# What reorders the text around it or shows as nothing at all; lone surrogates are not UTF-8 either.
_HIDDEN = re.compile(
    r"[\0-\x08\v\f\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069"
    r"\ud800-\udfff\ufeff]"
)


def visible(value: Any) -> str:
    """The text with what cannot be seen written out, so that no text can disguise another."""
    return value if isinstance(value, Markup) else _HIDDEN.sub(lambda c: f"⟨U+{ord(c[0]):04X}⟩", str(value))

"""Text as the page shows it: what cannot be seen is written out."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

# What reorders the text around it, breaks its line unseen or shows as nothing at all; lone surrogates are not
# UTF-8 either. The joiners U+200C and U+200D stay: scripts and emoji are written with them.
_HIDDEN = re.compile(
    r"[\0-\x08\v\f\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u2069\u2800\u3164\ud800-\udfff\ufeff\uffa0\U000e0000-\U000e007f]"
)


def visible(value: Any) -> str:
    """The text with what cannot be seen written out, so that no text can disguise another."""
    return value if isinstance(value, Markup) else _HIDDEN.sub(lambda c: f"⟨U+{ord(c[0]):04X}⟩", str(value))

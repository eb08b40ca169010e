"""Numbers as people read them: pure functions, no markup."""

from __future__ import annotations

import math
from typing import Any

DASH = "–"
"""What stands for a value that is absent."""

TITLES = {
    "model": "Model",
    "true_score_mean": "True score",
    "true_score_perfect": "Perfect answers",
    "judge_spearman": "Judge Spearman",
    "judge_exact": "Judge exact",
    "win_rate_vs_previous": "Wins against previous",
    "mean_response_tokens": "Tokens per answer",
    "chosen_logprob_per_token": "chosen",
    "rejected_logprob_per_token": "rejected",
    "reward_chosen": "chosen",
    "reward_rejected": "rejected",
}
_SHARES = ("perfect", "exact", "rate", "share", "accuracy", "fraction")
_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def title(name: str) -> str:
    """A column's or metric's name as people write it."""
    return TITLES.get(name) or name.replace("_", " ").capitalize()


def is_number(value: object) -> bool:
    """Whether `value` can be drawn; NaN and infinities cannot."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> float | None:
    """The value where it can be drawn, else None."""
    return float(value) if is_number(value) else None


def is_share(name: str) -> bool:
    """Whether a metric of this name is a share of something, 0 to 1."""
    return any(part in _SHARES for part in name.split("_")) and "learning" not in name


def show(name: str, value: Any) -> str:
    """A value as its column is read: shares in percent, absent ones as a dash."""
    if not is_number(value):
        return DASH if value is None else str(value)
    if is_share(name) and 0 <= value <= 1:
        return percent(value)
    if isinstance(value, int):
        return f"{value:,}"
    return (
        f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    )


def percent(share: float) -> str:
    """Rounded, but never to 0 % or 100 % where a few are left."""
    shown = f"{100 * share:.0f}"
    return f"{100 * share:.1f} %" if 0 < share < 1 and shown in ("0", "100") else f"{shown} %"


def duration(seconds: float) -> str:
    """At the precision people speak of: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(count: int, thing: str) -> str:
    """`3 stages`, `1 stage`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def spelled(count: int) -> str:
    """Up to ten as a word."""
    return _SMALL[count] if 0 <= count < len(_SMALL) else f"{count:,}"


def listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def short(name: str, limit: int = 9) -> str:
    """A name that fits below a picture."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"

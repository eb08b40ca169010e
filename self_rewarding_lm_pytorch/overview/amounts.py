"""Bytes and counts as people read them."""

from __future__ import annotations


def in_bytes(number: float) -> str:
    """1.5 GiB, 20 MiB, 3 KiB; powers of 1024."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit:
            value = number / unit
            return f"{value:.1f} {name}" if value < 100 else f"{value:,.0f} {name}"
    return f"{number:.0f} B"


def in_short(number: float) -> str:
    """12.3 M, 4.1 k: counts of tokens and parameters."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            value = number / unit
            return f"{value:.2f} {name}" if value < 10 else f"{value:,.1f} {name}"
    return f"{number:,.0f}"

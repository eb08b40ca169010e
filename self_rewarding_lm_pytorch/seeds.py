"""Random numbers by address, not by order.

A number is a pure function of where it is used (run seed, stage, prompt, visit, candidate, vote,
position), so neither the order of the work, nor the batch's shape, nor a crash changes what is drawn.
"""

import hashlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def address(*parts: int | str) -> int:
    """A 63-bit key, the same on every machine, for a place in a run."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def uniforms(keys: Tensor, position: int | Tensor) -> Tensor:
    """One number in [0, 1) for each key at a token position.

    keys: int64 (batch,), from `address`; position: one for all, or int64 (batch,). Returns float64
    (batch,). This is the SplitMix64 generator (Steele, Lea, Flood 2014) started at the key and jumped
    to `position`.
    """
    state = keys + (position + 1) * _wrapped(_GOLDEN)
    state = (state ^ _shift_right(state, 30)) * _MIX_1
    state = (state ^ _shift_right(state, 27)) * _MIX_2
    state = state ^ _shift_right(state, 31)
    return _shift_right(state, 11).double() * 2.0**-53


def _wrapped(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.int64)  # tensor arithmetic wraps; Python's does not


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Logical shift: torch shifts signed integers arithmetically."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)

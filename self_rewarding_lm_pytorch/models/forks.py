"""Rows that fork: what a token sees when two continuations of a trunk stand in one row."""

import torch
from torch import Tensor


def seen_from(positions: Tensor, branches: Tensor, window: int | None = None) -> Tensor:
    """Which keys each query of forked rows sees: bool (B, 1, T, T), queries by keys.

    Everything before it in its own branch and in the trunk (branch 0); window: only so many positions,
    its own included.
    """
    columns = torch.arange(branches.shape[1], device=branches.device)
    queries, keys = branches[:, :, None], branches[:, None, :]
    seen = (columns <= columns[:, None]) & ((keys == 0) | (keys == queries))
    if window is not None:
        seen &= positions[:, :, None] - positions[:, None, :] < window
    return seen[:, None]

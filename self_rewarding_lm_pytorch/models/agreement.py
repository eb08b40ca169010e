"""Whether a cache may be trusted with a model: it is tried before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.caches import Cache, RecomputingCache, Tokens

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.models.policy import Policy

# What model libraries raise where they cannot do what is asked.
_REFUSALS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def cache_agrees(policy: Policy, kind: type[Cache]) -> bool:
    """Whether this cache gives the logits that reading everything again gives.

    Prompts of unequal length behind a shared prefix are repeated, continued, joined by others and
    dropped. Anything the family's adapter does not know of a model (an unusual position scheme, say)
    shows here and not in the samples.
    """
    try:
        with policy.evaluating():
            return all(_agrees(policy, kind, prefix) for prefix in ((), (1, 2, 0)))
    except _REFUSALS:
        return False


def _agrees(policy: Policy, kind: type[Cache], prefix: Tokens) -> bool:
    top = max(2, min(policy.vocab_size or 8, 97))
    tokens = (torch.arange(12, device=policy.device) * 7 + 3) % top
    prompts = [(*prefix, *(7 * i % top for i in range(*span))) for span in ((0, 4), (5, 8), (9, 11))]

    def steps(cache: Cache) -> list[Tensor]:
        first = cache.add(prompts[:2], [2, 1], 4)
        if cache.can_branch:
            cache.keep(torch.tensor([0, 0, 1]), torch.ones(3, dtype=torch.int64))
        second = cache.extend(tokens[:3])
        joined = cache.add(prompts[2:], [1], 3)
        third = cache.extend(tokens[3:7])
        cache.keep(torch.tensor([0, 2, 3]), torch.ones(3, dtype=torch.int64))
        return [first, second, joined, third, cache.extend(tokens[7:10])]

    pairs = zip(steps(kind(policy, prefix)), steps(RecomputingCache(policy, prefix)), strict=True)
    return all(
        torch.allclose(fast.float(), slow.float(), atol=_tolerance(fast), rtol=1e-2) for fast, slow in pairs
    )


def fork_agrees(policy: Policy) -> bool:
    """Whether two continuations of a trunk in one row have the logits that they have in rows of their own."""
    top = max(2, min(policy.vocab_size or 8, 97))
    trunk, one, other = ([n * k % top for n in range(1, 5)] for k in (7, 5, 3))
    sequences = torch.tensor([trunk + one, trunk + other], device=policy.device)
    row = torch.tensor([trunk + one + other], device=policy.device)
    positions = torch.tensor([[*range(8), *range(4, 8)]], device=policy.device)
    branches = torch.tensor([[0] * 4 + [1] * 4 + [2] * 4], device=policy.device)
    try:
        with policy.evaluating():
            forked = policy.head(policy.forked_features(row, positions, branches))[0]
            apart = policy.logits(sequences)
    except _REFUSALS:
        return False
    together = torch.cat((apart[0], apart[1, 4:])).float()
    return torch.allclose(forked.float(), together, atol=_tolerance(forked), rtol=1e-2)


def _tolerance(logits: Tensor) -> float:
    # Half precision differs by kernel; a wrong position scheme differs by far more than this.
    return 1e-3 if logits.dtype in (torch.float32, torch.float64) else 0.25

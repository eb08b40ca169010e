"""How likely a policy finds each of several continuations, compared to their end.

Used where a judge's score must be one of a few values: "1" is a prefix of "10", so a value counts
only with the probability that it is not continued into a longer one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.caches import Cache
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.precision import float64_device, in_float64
from self_rewarding_lm_pytorch.models.prefixes import reading_order, shared_prefix

Tokens = tuple[int, ...]

ROWS_AT_ONCE = 64  # so many vocabularies of probabilities are held


def choice_probabilities(
    policy: Policy,
    prefixes: Sequence[Tokens],
    choices: Sequence[Tokens],
    *,
    temperature: float = 1.0,
    use_cache: bool = True,
) -> Tensor:
    """For each prefix, the distribution over the choices: float64 (len(prefixes), len(choices)).

    choices: different, non-empty token sequences. A choice's weight is the product of its tokens'
    probabilities and of the probability that no other choice's next token follows it. Temperature
    acts on the log-weights; 0 puts everything on the likeliest.
    """
    nodes = _inner_nodes(choices)
    prefix = shared_prefix(prefixes)
    order = reading_order(prefixes, len(prefix))
    shape, device = (len(prefixes), len(choices)), float64_device(policy.device)
    log_weights = torch.empty(shape, dtype=torch.float64, device=device)
    with policy.evaluating():
        cache = policy.new_cache(prefix, is_cached=use_cache)
        for start in range(0, len(order), ROWS_AT_ONCE):
            own = order[start : start + ROWS_AT_ONCE]
            logprobs = _node_logprobs(cache, [prefixes[i] for i in own], nodes)
            log_weights[own] = _log_weights(logprobs, choices, nodes)
    return _distribution(log_weights, temperature)


def _inner_nodes(choices: Sequence[Tokens]) -> list[Tokens]:
    """Every point in the tree of choices after which another token may come; the root is first."""
    found = {choice[:depth] for choice in choices for depth in range(len(choice))}
    return sorted(found, key=lambda node: (len(node), node))


def _node_logprobs(cache: Cache, prefixes: Sequence[Tokens], nodes: list[Tokens]) -> Tensor:
    """Next-token log-probs after each prefix and node: (B, nodes, V)."""
    inner, depth = nodes[1:], len(nodes[-1])
    logits = cache.add(prefixes, [len(inner)] * len(prefixes), depth)
    after = [in_float64(logits).log_softmax(dim=-1)[:, None]]
    if inner:
        if cache.can_branch:
            rows = torch.arange(len(prefixes)).repeat_interleave(len(inner))
            cache.keep(rows, torch.ones_like(rows))
        found: list[Tensor | None] = [None] * len(inner)
        for step in range(depth):
            # A shorter node goes on with an arbitrary token; its log-probs were taken before that.
            column = torch.tensor([node[min(step, len(node) - 1)] for node in inner], device=logits.device)
            logits = cache.extend(column.repeat(len(prefixes)))
            logprobs = in_float64(logits).log_softmax(dim=-1).view(len(prefixes), len(inner), -1)
            for place, node in enumerate(inner):
                if len(node) == step + 1:
                    found[place] = logprobs[:, place]
        after.append(torch.stack([part for part in found if part is not None], dim=1))
        none = torch.empty(0, dtype=torch.int64)
        cache.keep(none, none)
    return torch.cat(after, dim=1)


def _log_weights(logprobs: Tensor, choices: Sequence[Tokens], nodes: list[Tokens]) -> Tensor:
    columns = []
    for choice in choices:
        total = torch.zeros(len(logprobs), dtype=torch.float64, device=logprobs.device)
        for depth, token in enumerate(choice):
            total = total + logprobs[:, nodes.index(choice[:depth]), token]
        longer = {c[len(choice)] for c in choices if len(c) > len(choice) and c[: len(choice)] == choice}
        if longer:
            goes_on = logprobs[:, nodes.index(choice)][:, sorted(longer)].exp().sum(dim=-1)
            total = total + torch.log1p(-goes_on.clamp(max=1 - 1e-12))
        columns.append(total)
    return torch.stack(columns, dim=1)


def _distribution(log_weights: Tensor, temperature: float) -> Tensor:
    if temperature == 0:
        best = log_weights.argmax(dim=1)
        return torch.nn.functional.one_hot(best, log_weights.shape[1]).double()
    return (log_weights / temperature).softmax(dim=1)

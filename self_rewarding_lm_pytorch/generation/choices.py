"""How likely a policy finds each of several continuations, compared to their end.

Used where a judge's score must be one of a few values: "1" is a prefix of "10", so a value counts
only with the probability that it is not continued into a longer one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.policy import Cache, Policy, RecomputingCache

Tokens = tuple[int, ...]

# Nothing is gained by reading more at once, and attention's squares of long rows cost memory.
DEFAULT_TOKEN_BUDGET = 2048


def choice_probabilities(
    policy: Policy,
    prefixes: Sequence[Tokens],
    choices: Sequence[Tokens],
    *,
    temperature: float = 1.0,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    use_cache: bool = True,
) -> Tensor:
    """For each prefix, the distribution over the choices: float64 (len(prefixes), len(choices)).

    choices: different, non-empty token sequences. A choice's weight is the product of its tokens'
    probabilities and of the probability that no other choice's next token follows it. Temperature
    acts on the log-weights; 0 puts everything on the likeliest. token_budget: positions read at once.
    """
    nodes = _inner_nodes(choices)
    longest = max(len(prefix) for prefix in prefixes) + max(map(len, choices))
    rows = max(1, token_budget // (longest * max(1, len(nodes) - 1)))
    parts = []
    with policy.evaluating():
        for start in range(0, len(prefixes), rows):
            logprobs = _node_logprobs(policy, prefixes[start : start + rows], nodes, use_cache)
            parts.append(_log_weights(logprobs, choices, nodes))
    return _distribution(torch.cat(parts), temperature)


def _inner_nodes(choices: Sequence[Tokens]) -> list[Tokens]:
    """Every point in the tree of choices after which another token may come; the root is first."""
    found = {choice[:depth] for choice in choices for depth in range(len(choice))}
    return sorted(found, key=lambda node: (len(node), node))


def _node_logprobs(
    policy: Policy, prefixes: Sequence[Tokens], nodes: list[Tokens], use_cache: bool
) -> Tensor:
    """Next-token log-probs after each prefix and node: (B, nodes, V)."""
    lengths = torch.tensor([len(prefix) for prefix in prefixes])
    width = int(lengths.max())
    ids = torch.tensor([[0] * (width - len(prefix)) + list(prefix) for prefix in prefixes])
    ids, lengths = ids.to(policy.device), lengths.to(policy.device)
    depth = len(nodes[-1])
    cache: Cache
    if use_cache:
        logits, cache = policy.start(ids, lengths, width + depth)
    else:
        recomputing = RecomputingCache(policy, ids, lengths)
        logits, cache = recomputing.next_logits(), recomputing
    after = [logits.double().log_softmax(dim=-1)[:, None]]
    inner = nodes[1:]
    if inner:
        cache.repeat(len(inner))
        found: list[Tensor | None] = [None] * len(inner)
        for step in range(depth):
            # A shorter node goes on with an arbitrary token; its log-probs were taken before that.
            column = torch.tensor([node[min(step, len(node) - 1)] for node in inner], device=policy.device)
            logits = cache.extend(column.repeat(len(prefixes)))
            logprobs = logits.double().log_softmax(dim=-1).view(len(prefixes), len(inner), -1)
            for place, node in enumerate(inner):
                if len(node) == step + 1:
                    found[place] = logprobs[:, place]
        after.append(torch.stack([part for part in found if part is not None], dim=1))
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

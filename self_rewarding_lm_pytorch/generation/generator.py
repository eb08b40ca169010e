"""Continues prompts: N samples for each; what ends leaves the batch, and what waits takes its place.

Knows token ids only. What is drawn depends on each request's key and nothing else (see `seeds`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import GenerationError
from self_rewarding_lm_pytorch.generation.sampling import Sampling, UnusableLogits, sample
from self_rewarding_lm_pytorch.models.caches import Cache
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import FinishReason
from self_rewarding_lm_pytorch.seeds import uniforms

DEFAULT_TOKEN_BUDGET = 65_536
SHORTEST_PREFIX = 16
"""A shorter beginning of all prompts is not worth a level of attention of its own."""

StopRule = Callable[[Sequence[int]], bool]
"""Asked after each token with the sample's tokens so far; True ends the sample."""


@dataclass(frozen=True, slots=True)
class Request:
    """Samples wanted after one prompt."""

    ids: tuple[int, ...]  # the prompt, at least one token
    keys: tuple[int, ...]  # one sample for each key
    max_new_tokens: int
    stop: StopRule | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample: its tokens (the end-of-sequence token included) and why it ended."""

    ids: tuple[int, ...]
    finish_reason: FinishReason


OnProgress = Callable[[int, int], None]
"""Called with (completions finished, tokens sampled) since the last call."""


class Generator(Protocol):
    """Whatever can continue token ids; it need not be this process's model."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, on_progress: OnProgress | None = None
    ) -> list[list[Completion]]:
        """For each request, in order, a completion for each of its keys."""
        ...


class PolicyGenerator:
    """The generator of a policy in this process.

    token_budget bounds the positions that memory is held for. What is done together depends on the
    requests of one call alone, so that equal calls have equal schedules.
    """

    def __init__(
        self,
        policy: Policy,
        eos_ids: Sequence[int],
        *,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        use_cache: bool = True,
    ) -> None:
        self._policy = policy
        self._eos_ids = frozenset(eos_ids)
        self._token_budget = token_budget
        self._use_cache = use_cache

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, on_progress: OnProgress | None = None
    ) -> list[list[Completion]]:
        self._check(requests)
        samples = [[_Sample(i, request, key) for key in request.keys] for i, request in enumerate(requests)]
        parts = (part for own in samples for part in self._parts(own))
        # The longest first: what joins later is shorter, and the prompts of a cohort are of a length.
        waiting = deque(sorted(parts, key=lambda part: -len(part[0].request.ids)))
        with self._policy.evaluating():
            prefix = shared_prefix([request.ids for request in requests])
            cache = self._policy.new_cache(prefix, is_cached=self._use_cache)
            self._run(waiting, cache, sampling, on_progress)
        return [[one.completion() for one in own] for own in samples]

    def _check(self, requests: Sequence[Request]) -> None:
        limit = self._policy.max_length
        for number, request in enumerate(requests):
            if not request.ids:
                raise GenerationError(f"request {number} has an empty prompt; give at least one token")
            if request.max_new_tokens < 1:
                raise GenerationError(
                    f"request {number} wants {request.max_new_tokens} new tokens; ask for at least 1"
                )
            length = len(request.ids) + request.max_new_tokens
            if limit is not None and length > limit:
                raise GenerationError(
                    f"request {number} wants {len(request.ids)} prompt tokens and {request.max_new_tokens} "
                    f"new ones, but the model's context is {limit}; lower max_new_tokens"
                )
            if length > self._token_budget:
                raise GenerationError(
                    f"one sample of request {number} takes {length} cached positions, more than the token "
                    f"budget of {self._token_budget}; raise the budget or lower max_new_tokens"
                )

    def _parts(self, samples: list[_Sample]) -> Iterator[list[_Sample]]:
        """A request's samples together, or apart where their positions would pass the budget."""
        if samples:
            request = samples[0].request
            rows = max(1, self._token_budget // (len(request.ids) + request.max_new_tokens))
            for start in range(0, len(samples), rows):
                yield samples[start : start + rows]

    def _run(
        self, waiting: deque[list[_Sample]], cache: Cache, sampling: Sampling, on_progress: OnProgress | None
    ) -> None:
        rows: list[_Sample] = []  # under way, in the cache's order
        tokens = torch.empty(0, dtype=torch.int64)
        while waiting or rows:
            logits = [cache.extend(tokens.to(self._policy.device))] if rows else []
            if cohort := self._admit(waiting, cache):
                logits.append(_read(cohort, cache))
                rows += [one for part in cohort for one in part]
            tokens = _draw(rows, torch.cat(logits) if len(logits) > 1 else logits[0], sampling)
            kept = [row for row, one in enumerate(rows) if not one.take(int(tokens[row]), self._eos_ids)]
            if on_progress is not None:
                on_progress(len(rows) - len(kept), len(rows))
            if len(kept) < len(rows):
                rows = [rows[row] for row in kept]
                cache.keep(torch.tensor(kept, dtype=torch.int64))
                tokens = tokens[kept]

    def _admit(self, waiting: deque[list[_Sample]], cache: Cache) -> list[list[_Sample]]:
        """The next to join, once a quarter of the budget is free: as many as it holds."""
        free = self._token_budget - cache.positions
        if not waiting or (cache.num_rows and free < self._token_budget / 4):
            return []
        longest, num_rows, room = len(waiting[0][0].request.ids), 0, 0
        cohort: list[list[_Sample]] = []
        while waiting:
            part = waiting[0]
            room = max(room, part[0].request.max_new_tokens)
            num_rows += len(part)
            cost = cache.cost(longest=longest, num_prompts=len(cohort) + 1, num_rows=num_rows, room=room)
            if (cohort or cache.num_rows) and (cost > free or not self._is_within_context(longest + room)):
                break
            cohort.append(waiting.popleft())
        return cohort

    def _is_within_context(self, positions: int) -> bool:
        """Rows that have ended may stay in a batch until its last step."""
        return self._policy.max_length is None or positions <= self._policy.max_length


@dataclass(slots=True, eq=False)
class _Sample:
    """One sample under way."""

    number: int  # of its request in the call
    request: Request
    key: int
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def take(self, token: int, eos_ids: frozenset[int]) -> bool:
        """Appends a token; returns whether that ended the sample."""
        self.ids.append(token)
        if token in eos_ids:
            self.finish_reason = "eos"
        elif self.request.stop is not None and self.request.stop(self.ids):
            self.finish_reason = "stop"
        elif len(self.ids) >= self.request.max_new_tokens:
            self.finish_reason = "length"
        return self.finish_reason is not None

    def completion(self) -> Completion:
        assert self.finish_reason is not None
        return Completion(tuple(self.ids), self.finish_reason)


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all prompts begin with, at least one token of each left over; empty if not worth sharing."""
    if len(prompts) < 2:
        return ()
    low, high = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    length = next((i for i in range(limit) if low[i] != high[i]), limit)
    return low[:length] if length >= SHORTEST_PREFIX else ()


def _read(cohort: list[list[_Sample]], cache: Cache) -> Tensor:
    """Adds a cohort to the cache; the logits of each of its rows."""
    copies = [len(part) for part in cohort]
    requests = [part[0].request for part in cohort]
    # The last token is sampled and never read.
    room = max(request.max_new_tokens for request in requests) - 1
    logits = cache.add([request.ids for request in requests], copies, room)
    return logits.repeat_interleave(torch.tensor(copies, device=logits.device), dim=0)


def _draw(rows: list[_Sample], logits: Tensor, sampling: Sampling) -> Tensor:
    """The next token of each row, int64 (rows,) on the CPU."""
    keys = torch.tensor([one.key for one in rows], dtype=torch.int64)
    steps = torch.tensor([len(one.ids) for one in rows])
    try:
        return sample(logits, sampling, uniforms(keys, steps))
    except UnusableLogits as error:
        one = rows[error.row]
        raise GenerationError(
            f"request {one.number}: {error.what} after {len(one.ids)} sampled tokens, so "
            "no token can be drawn; the model's weights or the filter are at fault"
        ) from error

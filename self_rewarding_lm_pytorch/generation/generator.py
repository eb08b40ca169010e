"""Continues prompts: N samples for each; what ends leaves the batch, and what waits takes its place.

Knows token ids only. What is drawn depends on each request's key and nothing else (see `seeds`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import GenerationError
from self_rewarding_lm_pytorch.generation.requests import Completion, OnProgress, Request
from self_rewarding_lm_pytorch.generation.rows import Row, Work, apart
from self_rewarding_lm_pytorch.generation.sampling import Sampling, UnusableLogits, sample
from self_rewarding_lm_pytorch.models.caches import Cache
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.prefixes import reading_order, shared_prefix
from self_rewarding_lm_pytorch.seeds import uniforms

DEFAULT_TOKEN_BUDGET = 32_768


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
        work = Work(requests)
        rows = list(self._parts(work.rows))
        prompts = [row.request.ids for row in rows]
        prefix = shared_prefix(prompts)
        waiting = deque(rows[number] for number in reading_order(prompts, len(prefix)))
        with self._policy.evaluating():
            cache = self._policy.new_cache(prefix, is_cached=self._use_cache)
            self._run(waiting, cache, sampling, work, on_progress)
        return work.completions

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

    def _parts(self, rows: Iterable[Row]) -> Iterator[Row]:
        """A request's samples together, or apart where their positions would pass the budget."""
        for row in rows:
            width = max(1, self._token_budget // (len(row.request.ids) + row.request.max_new_tokens))
            for start in range(0, len(row.samples), width):
                yield Row(row.request, [], row.samples[start : start + width])

    def _run(
        self,
        waiting: deque[Row],
        cache: Cache,
        sampling: Sampling,
        work: Work,
        on_progress: OnProgress | None,
    ) -> None:
        rows: list[Row] = []  # under way, in the cache's order
        tokens = torch.empty(0, dtype=torch.int64)
        while waiting or rows:
            logits = [cache.extend(tokens.to(self._policy.device))] if rows else []
            if cohort := self._admit(waiting, cache):
                rows = [*rows, *(cohort if cache.can_branch else apart(cohort))]
                logits.append(_read(cohort, cache))
            drawn = _draw(rows, torch.cat(logits) if len(logits) > 1 else logits[0], sampling)
            parted = [(number, part) for number, row in enumerate(rows) for part in row.continued(drawn)]
            going = [each for each in parted if not work.end(each[1], self._eos_ids)]
            if on_progress is not None:
                num_drawn, num_going = (sum(len(row.samples) for _, row in x) for x in (parted, going))
                on_progress(num_drawn - num_going, num_drawn)
            parents = [number for number, _ in going]
            is_same = parents == [*range(len(rows))]
            rows = [row for _, row in going]
            tokens = torch.tensor([row.written[-1] for row in rows], dtype=torch.int64)
            if not is_same:
                copies = torch.tensor([len(row.samples) for row in rows], dtype=torch.int64)
                cache.keep(torch.tensor(parents, dtype=torch.int64), copies)

    def _admit(self, waiting: deque[Row], cache: Cache) -> list[Row]:
        """The next to join, once a quarter of the budget is free: as many as it holds."""
        free = self._token_budget - cache.positions
        if not waiting or (cache.num_rows and free < self._token_budget / 4):
            return []
        longest, num_rows, room = 0, 0, 0
        cohort: list[Row] = []
        while waiting:
            longest = max(longest, len(waiting[0].request.ids))
            room = max(room, waiting[0].request.max_new_tokens)
            num_rows += len(waiting[0].samples)
            cost = cache.cost(longest=longest, num_prompts=len(cohort) + 1, num_rows=num_rows, room=room)
            if (cohort or cache.num_rows) and (cost > free or not self._is_within_context(longest + room)):
                break
            cohort.append(waiting.popleft())
        return cohort

    def _is_within_context(self, positions: int) -> bool:
        """Rows that have ended may stay in a batch until its last step."""
        return self._policy.max_length is None or positions <= self._policy.max_length


def _read(cohort: list[Row], cache: Cache) -> Tensor:
    """Adds a cohort to the cache; the logits of each of its rows."""
    requests = [row.request for row in cohort]
    copies = [len(row.samples) for row in cohort]
    # The last token is sampled and never read.
    room = max(request.max_new_tokens for request in requests) - 1
    logits = cache.add([request.ids for request in requests], copies, room)
    if cache.can_branch:
        return logits
    return logits.repeat_interleave(torch.tensor(copies, device=logits.device), dim=0)


def _draw(rows: list[Row], logits: Tensor, sampling: Sampling) -> Iterator[int]:
    """The next token of each row's samples, in order."""
    owners = [number for number, row in enumerate(rows) for _ in row.samples]
    keys = torch.tensor([one.key for row in rows for one in row.samples], dtype=torch.int64)
    steps = torch.tensor([len(row.written) for row in rows])[owners]
    shared = owners if len(owners) > len(rows) else None
    try:
        return iter(sample(logits, sampling, uniforms(keys, steps), shared).tolist())
    except UnusableLogits as error:
        row = rows[error.row]
        number = min(one.number for one in row.samples)
        raise GenerationError(
            f"request {number}: {error.what} after {len(row.written)} sampled tokens, so "
            "no token can be drawn; the model's weights or the filter are at fault"
        ) from error

"""Continues prompts: N samples for each, the prompt read once, rows that end leave the batch.

Knows token ids only. What is drawn depends on each request's key and nothing else (see `seeds`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import GenerationError
from self_rewarding_lm_pytorch.generation.sampling import Sampling, UnusableLogits, sample
from self_rewarding_lm_pytorch.models.policy import Cache, Policy, RecomputingCache
from self_rewarding_lm_pytorch.records import FinishReason
from self_rewarding_lm_pytorch.seeds import uniforms

DEFAULT_TOKEN_BUDGET = 65_536


@dataclass(frozen=True, slots=True)
class Request:
    """Samples wanted after one prompt."""

    ids: tuple[int, ...]  # the prompt, at least one token
    keys: tuple[int, ...]  # one sample for each key
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of a request's samples: what is worked on at once."""

    owner: int  # the request's place in the call
    ids: tuple[int, ...]
    keys: tuple[int, ...]
    max_new_tokens: int


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

    token_budget bounds the cached positions of a batch, and with them the memory; batches are made
    from the requests of one call alone, so that equal calls have equal schedules.
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
        self._eos_ids = tuple(eos_ids)
        self._token_budget = token_budget
        self._use_cache = use_cache

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, on_progress: OnProgress | None = None
    ) -> list[list[Completion]]:
        self._check(requests)
        results: list[list[Completion]] = [[] for _ in requests]
        parts = [part for i, request in enumerate(requests) for part in self._parts(i, request)]
        with self._policy.evaluating():
            for batch in self._batches(parts):
                completed = self._run(batch, sampling, on_progress)
                for part, completions in zip(batch, completed, strict=True):
                    results[part.owner] += completions
        return results

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

    def _parts(self, owner: int, request: Request) -> Iterator[_Part]:
        """A request as one row of work, or several where its samples together pass the budget."""
        rows = max(1, self._token_budget // (len(request.ids) + request.max_new_tokens))
        for start in range(0, len(request.keys), rows):
            keys = request.keys[start : start + rows]
            yield _Part(owner, request.ids, keys, request.max_new_tokens)

    def _batches(self, parts: list[_Part]) -> Iterator[list[_Part]]:
        """Parts of similar length, as many as the budget holds."""
        batch: list[_Part] = []
        rows = new_tokens = 0
        for part in sorted(parts, key=lambda part: -len(part.ids)):
            longest = len(batch[0].ids) if batch else len(part.ids)
            most = max(new_tokens, part.max_new_tokens)
            if batch and not self._fits(rows + len(part.keys), longest + most):
                yield batch
                batch, rows, most = [], 0, part.max_new_tokens
            batch.append(part)
            rows, new_tokens = rows + len(part.keys), most
        if batch:
            yield batch

    def _fits(self, rows: int, positions: int) -> bool:
        """Within the budget; and within the context, as ended rows may stay to the batch's last step."""
        limit = self._policy.max_length
        return rows * positions <= self._token_budget and (limit is None or positions <= limit)

    def _run(
        self, batch: list[_Part], sampling: Sampling, on_progress: OnProgress | None
    ) -> list[list[Completion]]:
        logits, cache = self._read_prompts(batch)
        rows = _Rows(batch, self._eos_ids, self._policy.device)
        logits = self._fan_out(batch, logits, cache)
        step = 0
        while True:
            try:
                tokens = sample(logits, sampling, uniforms(rows.keys, step))
            except UnusableLogits as error:
                raise GenerationError(
                    f"request {rows.request_of(error.row)}: {error.what} after {step} sampled tokens, so "
                    "no token can be drawn; the model's weights or the filter are at fault"
                ) from error
            sampled = rows.num_active
            finished = rows.add(tokens)
            step += 1
            if on_progress is not None:
                on_progress(finished, sampled)
            if not rows.num_active:
                return rows.completions()
            kept = rows.compact()
            if kept is not None:
                cache.keep(kept)
                tokens = tokens[kept]
            logits = cache.extend(tokens)

    def _read_prompts(self, batch: list[_Part]) -> tuple[Tensor, Cache]:
        lengths = torch.tensor([len(part.ids) for part in batch])
        width = int(lengths.max())
        ids = torch.tensor([[0] * (width - len(part.ids)) + list(part.ids) for part in batch])
        capacity = width + max(part.max_new_tokens for part in batch)
        device = self._policy.device
        ids, lengths = ids.to(device), lengths.to(device)
        if self._use_cache:
            return self._policy.start(ids, lengths, capacity)
        cache = RecomputingCache(self._policy, ids, lengths)
        return cache.next_logits(), cache

    def _fan_out(self, batch: list[_Part], logits: Tensor, cache: Cache) -> Tensor:
        """Each prompt's row becomes one row for each of its keys."""
        counts = torch.tensor([len(part.keys) for part in batch], device=logits.device)
        if bool((counts == 1).all()):
            return logits
        rows = torch.arange(len(batch), device=logits.device).repeat_interleave(counts)
        cache.keep(rows)
        return logits[rows]


class _Rows:
    """The samples under way: which rows are active, and every token so far."""

    def __init__(self, batch: list[_Part], eos_ids: tuple[int, ...], device: torch.device) -> None:
        self._batch = batch
        self._owner = [i for i, part in enumerate(batch) for _ in part.keys]
        self._limits = [batch[i].max_new_tokens for i in self._owner]
        self._eos_ids = set(eos_ids)
        self._tokens: list[list[int]] = [[] for _ in self._owner]
        self._reasons: list[FinishReason | None] = [None] * len(self._owner)
        self._rows = list(range(len(self._owner)))  # sample of each row in the cache
        self._device = device
        keys = [key for part in batch for key in part.keys]
        self.keys = torch.tensor(keys, dtype=torch.int64, device=device)
        self.num_active = len(self._owner)

    def request_of(self, row: int) -> int:
        return self._batch[self._owner[self._rows[row]]].owner

    def add(self, tokens: Tensor) -> int:
        """Appends a token to each active row; returns how many samples ended."""
        before = self.num_active
        for row, token in enumerate(tokens.tolist()):
            sample_index = self._rows[row]
            if self._reasons[sample_index] is not None:
                continue  # ended, waiting to leave the cache
            own = self._tokens[sample_index]
            own.append(token)
            if token in self._eos_ids:
                self._reasons[sample_index] = "eos"
            elif len(own) >= self._limits[sample_index]:
                self._reasons[sample_index] = "length"
            self.num_active -= self._reasons[sample_index] is not None
        return before - self.num_active

    def compact(self) -> Tensor | None:
        """The rows to keep once a quarter of them has ended, or None: dropping costs a copy."""
        if self.num_active > 0.75 * len(self._rows):
            return None
        kept = [row for row, index in enumerate(self._rows) if self._reasons[index] is None]
        self._rows = [self._rows[row] for row in kept]
        rows = torch.tensor(kept, device=self._device)
        self.keys = self.keys[rows]
        return rows

    def completions(self) -> list[list[Completion]]:
        results: list[list[Completion]] = [[] for _ in self._batch]
        for owner, tokens, reason in zip(self._owner, self._tokens, self._reasons, strict=True):
            assert reason is not None
            results[owner].append(Completion(tuple(tokens), reason))
        return results

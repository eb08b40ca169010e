"""The cache of models whose attention we may compute: what rows share is read, held and attended once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.caches import Cache, Tokens, by_cohort, chunks, right_padded
from self_rewarding_lm_pytorch.models.cascade import Segments
from self_rewarding_lm_pytorch.models.prefixes import families
from self_rewarding_lm_pytorch.models.shared_attention import Attention, Before, Reading, Step
from self_rewarding_lm_pytorch.models.shared_cohort import Runs, SharedCohort

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.models.policy import Policy


class SharedCache(Cache):
    """Levels of keys: the prefix of all rows, the stem of some prompts, a prompt, each row's own tokens."""

    kind = "shared prefixes"
    can_branch = True

    def __init__(self, policy: Policy, prefix: Tokens = ()) -> None:
        super().__init__(policy, prefix)
        self._before: list[Before] = []  # the prefix, if there is one
        self._cohorts: list[SharedCohort] = []
        if self.prefix:
            runs = Runs(torch.zeros(1, dtype=torch.int64), [self.prefix], policy.device)
            self._read([self.prefix], runs, runs.segments, [])
            self._before = [Before(runs)]

    @abstractmethod
    def forward(self, ids: Tensor, positions: Tensor, last: Tensor, attention: Attention) -> Tensor:
        """The model on ids (B, S) at positions (B, S), attending by `attention`: the logits after
        column last[b] of each row, (B, V)."""

    def add(self, prompts: Sequence[Tokens], copies: Sequence[int], room: int) -> Tensor:
        start = len(self.prefix)
        rank, stem = [0] * len(prompts), [0] * len(prompts)
        for family in families(prompts, start):
            for member in family.members:
                rank[member], stem[member] = family.rank, family.stem
        logits = []
        for _, each in groupby(range(len(prompts)), key=rank.__getitem__):
            numbers = list(each)
            own = slice(numbers[0], numbers[-1] + 1)
            ids = [tuple(prompt[start:]) for prompt in prompts[own]]
            logits.append(self._add_cohort(ids, stem[own], sum(copies[own]), room))
        return torch.cat(logits)

    def _add_cohort(self, ids: list[tuple[int, ...]], stem: list[int], copies: int, room: int) -> Tensor:
        """ids: of the prompts, behind the prefix; stem: how many of them are the prompt's stem."""
        begin, device = len(self.prefix), self.policy.device
        numbers: dict[tuple[int, ...], int] = {}
        owners = torch.tensor(
            [numbers.setdefault(each[:length], len(numbers)) for each, length in zip(ids, stem, strict=True)]
        )
        before, stems = self._before, None
        if any(stem):
            stems = Runs(torch.full((len(numbers),), begin), list(numbers), device)
            self._read(list(numbers), stems, stems.segments, before)
            before = [*before, Before(stems, owners)]
        own = [each[length:] for each, length in zip(ids, stem, strict=True)]
        prompts = Runs(begin + torch.tensor(stem), own, device)
        logits = self._read(own, prompts, prompts.segments if copies else None, before)
        if copies:
            self._cohorts.append(SharedCohort(stems, owners, prompts, copies, room))
        return logits

    def _read(self, ids: Sequence[Tokens], runs: Runs, into: Segments | None, before: list[Before]) -> Tensor:
        """Reads runs of tokens behind what comes before them; the logits after each."""
        device = self.policy.device
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        logits = []
        for part in chunks([len(ids[number]) for number in order]):
            own = torch.tensor(order[part])
            padded, lengths = right_padded([ids[number] for number in order[part]])
            positions = (runs.starts[own, None] + torch.arange(padded.shape[1])).to(device)
            attention = Reading(positions, [each.of(own) for each in before], into, own.to(device))
            last = (lengths - 1).to(device)
            ends = positions.gather(1, last[:, None])  # padding may lie outside the model's context
            logits.append(self.forward(padded.to(device), positions.clamp(max=ends), last, attention))
        return torch.cat(logits)[torch.tensor(order).argsort().to(device)]

    def extend(self, tokens: Tensor) -> Tensor:
        step = Step(self._before, self._cohorts, self.policy.device)
        last = torch.zeros_like(tokens)
        logits = self.forward(tokens[:, None], step.positions[:, None], last, step)
        for cohort in self._cohorts:
            cohort.length += 1
        return logits

    def keep(self, rows: Tensor, copies: Tensor) -> None:
        parts = by_cohort(rows, [cohort.num_rows for cohort in self._cohorts])
        shares = copies.split([len(own) for own in parts])
        alive = [each for each in zip(self._cohorts, parts, shares, strict=True) if len(each[1])]
        for cohort, own, share in alive:
            cohort.keep(own, int(share.sum()))
        self._cohorts = [cohort for cohort, _, _ in alive]

    @property
    def num_rows(self) -> int:
        return sum(cohort.num_rows for cohort in self._cohorts)

    @property
    def positions(self) -> int:
        return len(self.prefix) + sum(cohort.positions for cohort in self._cohorts)

    def cost(self, *, longest: int, num_prompts: int, num_rows: int, room: int) -> int:
        return num_prompts * (longest - len(self.prefix)) + num_rows * room

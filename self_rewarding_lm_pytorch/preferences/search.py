"""The bounded search for pairs: shard by shard, each step stored before the next begins."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.files import write_atomically
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.preferences.candidates import Sampler
from self_rewarding_lm_pytorch.preferences.shards import Left, Rule, Shards, Visit, Work, plain
from self_rewarding_lm_pytorch.preferences.stored_pairs import StoredPairs
from self_rewarding_lm_pytorch.preferences.watcher import Watcher
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Prompt
from self_rewarding_lm_pytorch.seeds import address

VISITS_PER_PAIR = 4
"""A search visits at most this many prompts for each pair asked for."""


class PairSearch:
    """Visits prompts, samples, judges and pairs until `num_pairs` are found or the bound is reached.

    num_pairs: None visits every prompt once. recycle: how often, at the most, a prompt that has given no
    pair is then visited again, where pairs are still wanted; each time its candidates are added to those it
    had. A shard's work depends on the shards before it and on the plan alone, so a search cut off anywhere
    goes on with what is stored. Of what it finds it holds counts, and which prompts have been visited and
    paired; pairs, skipped visits and what may be recycled are read from the store where they are needed.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        sampler: Sampler,
        judge: Judge,
        rule: Rule,
        store: ShardStore,
        *,
        num_pairs: int | None,
        shard_size: int,
        seed: Sequence[int | str],
        reporter: Reporter,
        recycle: int = 0,
        watcher: Watcher | None = None,
    ) -> None:
        self._prompts = prompts
        self._store = store
        self._num_pairs = num_pairs
        self._shard_size = shard_size
        self._seed = tuple(seed)
        self._reporter = reporter
        self._recycle = recycle
        self._watcher = watcher
        self._shards = Shards(sampler, judge, rule, store, reporter)
        self._orders: dict[int, torch.Tensor] = {}  # of the round under way
        self._counts: list[int] = []  # pairs of each shard so far
        self._num_visits = 0
        self._skips: Counter[str] = Counter()  # by reason
        self._visited: set[int] = set()
        self._paired: set[int] = set()
        self._left: dict[int, list[Left]] = {}  # by prompt, where it may be recycled

    @property
    def work(self) -> Work:
        return self._shards.work

    def run(self) -> Sequence[PreferencePair]:
        """The pairs, in the order they were found, read from the store a shard at a time.

        No pair at all is a DataError with the yield.
        """
        try:
            found = self._find(self._num_pairs)
            for number in range(1, self._recycle + 1):
                found += self._recycled(number, None if self._num_pairs is None else self._num_pairs - found)
        except BaseException:
            with processes.apart():  # the others may be elsewhere
                self.write_skipped()
            raise
        self.write_skipped()
        self.check_found()
        self._tell(found)
        return StoredPairs(self._store, self._counts)

    def more(self, num_pairs: int | None) -> Sequence[PreferencePair]:
        """Goes on until so many further pairs are found, or the bound is reached; None: every prompt once."""
        first = len(self._counts)
        self._find(num_pairs)
        return StoredPairs(self._store, self._counts[first:], first)

    def _find(self, num_pairs: int | None) -> int:
        """How many pairs the prompts' next visits gave, of which so many are wanted."""
        found = 0
        left = len(self._prompts) if num_pairs is None else VISITS_PER_PAIR * num_pairs
        while left > 0 and (num_pairs is None or found < num_pairs):
            missing = None if num_pairs is None else num_pairs - found
            size = len(self._shards.stored_visits(len(self._counts))) or min(left, self._size(missing))
            first = self._num_visits
            found += self._shard([self._visit(number) for number in range(first, first + size)], missing)
            self._num_visits += size
            left -= size
        return found

    def _recycled(self, number: int, missing: int | None) -> int:
        """Another visit to each prompt without a pair; no other visit has its number."""
        visit = -(-self._num_visits // len(self._prompts)) - 1 + number
        unpaired = self._visited - self._paired
        again = [(prompt, visit) for prompt in self._prompts if prompt.index in unpaired]
        found = start = 0
        while start < len(again) and (missing is None or found < missing):
            wanted = None if missing is None else missing - found
            size = len(self._shards.stored_visits(len(self._counts))) or self._size(wanted)
            found += self._shard(again[start : start + size], wanted, recycled=True)
            start += size
        return found

    def _shard(self, visits: list[Visit], missing: int | None, *, recycled: bool = False) -> int:
        """The next shard; how many pairs it has."""
        shard = len(self._counts)
        pools = self._shards.pools([self._left[prompt.index] for prompt, _ in visits]) if recycled else None
        pairs = self._shards.done(shard, visits, missing, pools)
        self._visited |= {prompt.index for prompt, _ in visits}
        for pair in pairs:
            self._paired.add(pair.prompt_index)
            self._left.pop(pair.prompt_index, None)
        self._counts.append(len(pairs))
        self.work.counts.prompts = len(self._visited)
        self._remember(shard, recycled)
        if self._watcher is not None:
            again = frozenset(own.key for kept, _ in pools or () for own in kept)
            candidates, judgments = self._store.read(Candidate, shard), self._store.read(Judgment, shard)
            self._watcher.judged(shard, candidates, judgments, again)
            self._watcher.paired(shard, self.work.counts, self._num_pairs)
        return len(pairs)

    def _remember(self, shard: int, recycled: bool) -> None:
        """What is left of a finished shard's visits without a pair."""
        skipped = self._shards.skipped(shard)
        self._skips.update(entry.reason for entry in skipped)
        for index, visit in sorted({(entry.prompt_index, entry.visit) for entry in skipped}):
            if self._recycle and index not in self._paired:
                before = [] if recycled else self._left.get(index, [])  # a recycled visit holds its pool
                self._left[index] = [*before, Left(shard, index, visit)]

    def check_found(self) -> None:
        """Raises DataError with the yield where no pair has been found at all."""
        counts = self.work.counts
        if not counts.pairs:
            raise DataError(
                f"no preference pair came out of {counts.visits:,} visits to prompts, so there is nothing to "
                "train on. Where they were lost:\n    " + "\n    ".join(counts.lines()) + self._remedy()
            )

    def _remedy(self) -> str:
        """What to do, by what took most of the visits."""
        skipped = self.work.counts.skipped
        if max(skipped, key=lambda reason: skipped[reason], default="") == "tie":
            return (
                "\nMost ended in a tie: raise candidates.temperature or candidates.num, or take a judge that "
                "tells more apart"
            )
        shards = range(self._store.num_shards(Judgment))
        reasons = Counter(
            judgment.reason
            for shard in shards
            for judgment in self._store.read(Judgment, shard)
            if judgment.score is None
        )
        if not reasons:
            return ""
        ((reason, count),) = reasons.most_common(1)
        return f"\n{count:,} judgments have no score, as {reason}: look at the reward function or the judge"

    def _size(self, missing: int | None) -> int:
        """Of a shard where so many pairs are missing; None: no number was asked for."""
        return (
            self._shard_size
            if missing is None
            else min(self._shard_size, max(missing, self._shard_size // 16))
        )

    def _visit(self, number: int) -> Visit:
        """Each round visits every prompt once, in an order of its own."""
        visit, place = divmod(number, len(self._prompts))
        if visit not in self._orders:
            generator = torch.Generator().manual_seed(address("visits", *self._seed, visit))
            self._orders = {visit: torch.randperm(len(self._prompts), generator=generator)}
        return self._prompts[int(self._orders[visit][place])], visit

    def write_skipped(self) -> None:
        """skipped.json: the visits that gave no pair, for people to look at."""
        write_atomically(self._store.folder / "skipped.json", self._fill_skipped)

    def _fill_skipped(self, path: Path) -> None:
        """As `write_json` would write {counts, visits}, but a shard at a time."""
        with path.open("w", encoding="utf-8") as file:
            file.write(f'{{\n  "counts": {_indented(dict(self._skips), 2).lstrip()},\n  "visits": [')
            is_first = True
            for entry in self._skipped_visits():
                file.write(("\n" if is_first else ",\n") + _indented(entry, 4))
                is_first = False
            file.write("]\n}\n" if is_first else "\n  ]\n}\n")

    def _skipped_visits(self) -> Iterator[dict[str, Any]]:
        texts = {prompt.index: prompt.text for prompt in self._prompts}
        for shard in range(len(self._counts)):
            for entry in self._shards.skipped(shard):
                yield {**plain(entry), "prompt": texts[entry.prompt_index]}

    def _tell(self, found: int) -> None:
        self._reporter.lines(self.work.counts.lines())
        if self._num_pairs is not None and found < self._num_pairs:
            again = " and those of recycle" if self._recycle else ""
            self._reporter.warn(
                f"{found:,} pairs were found of the {self._num_pairs:,} asked for, after "
                f"{self.work.counts.visits:,} visits ({VISITS_PER_PAIR} for each pair at the most{again}); "
                "training goes on with those. The table above says where the others were lost."
            )


def _indented(value: Any, columns: int) -> str:
    space = " " * columns
    return space + json.dumps(value, indent=2, ensure_ascii=False).replace("\n", f"\n{space}")

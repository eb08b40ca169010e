"""The bounded search for pairs: shard by shard, each step stored before the next begins."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.preferences.pairing import PairingRule
from self_rewarding_lm_pytorch.preferences.yields import Yield
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Prompt, Skipped
from self_rewarding_lm_pytorch.seeds import address

VISITS_PER_PAIR = 4
"""A search visits at most this many prompts for each pair asked for."""

Visit = tuple[Prompt, int]


@dataclass
class Work:
    """What a search did, over all its shards."""

    counts: Yield = field(default_factory=Yield)
    tokens_generated: int = 0
    generate_seconds: float = 0.0
    judge_seconds: float = 0.0


class PairSearch:
    """Visits prompts, samples, judges and pairs until `num_pairs` are found or the bound is reached.

    num_pairs: None visits every prompt once. A shard's work depends on the shards before it and on
    the plan alone, so a search cut off anywhere goes on with what is stored.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        sampler: CandidateSampler,
        judge: Judge,
        rule: PairingRule,
        store: ShardStore,
        *,
        num_pairs: int | None,
        shard_size: int,
        seed: Sequence[int | str],
        reporter: Reporter,
    ) -> None:
        self._prompts = prompts
        self._sampler = sampler
        self._judge = judge
        self._rule = rule
        self._store = store
        self._num_pairs = num_pairs
        self._shard_size = shard_size
        self._seed = tuple(seed)
        self._reporter = reporter
        self._orders: dict[int, torch.Tensor] = {}  # of the round under way
        self._num_shards = self._num_visits = 0  # so far
        self._skips: list[Skipped] = []
        self._visited: set[int] = set()
        self.work = Work()

    def run(self) -> list[PreferencePair]:
        """The pairs, in the order they were found. No pair at all is a DataError with the yield."""
        try:
            pairs = self.more(self._num_pairs)
        finally:
            self.write_skipped()
        self.check_found()
        self._tell(pairs)
        return pairs

    def more(self, num_pairs: int | None) -> list[PreferencePair]:
        """Goes on until so many further pairs are found, or the bound is reached; None: every prompt once."""
        pairs: list[PreferencePair] = []
        for shard, visits in self._shards(pairs, num_pairs):
            missing = None if num_pairs is None else num_pairs - len(pairs)
            pairs += self._shard(shard, visits, missing)
            self._skips += self._skipped(shard)
            self._visited |= {prompt.index for prompt, _ in visits}
            self.work.counts.prompts = len(self._visited)
        return pairs

    def check_found(self) -> None:
        """Raises DataError with the yield where no pair has been found at all."""
        counts = self.work.counts
        if not counts.pairs:
            raise DataError(
                f"no preference pair came out of {counts.visits:,} visits to prompts, so there is nothing to "
                "train on. Where they were lost:\n    " + "\n    ".join(counts.lines())
            )

    def _shards(
        self, pairs: list[PreferencePair], num_pairs: int | None
    ) -> Iterator[tuple[int, list[Visit]]]:
        left = len(self._prompts) if num_pairs is None else VISITS_PER_PAIR * num_pairs
        while left > 0:
            size = min(self._shard_size, left)
            if num_pairs is not None:
                missing = num_pairs - len(pairs)
                if missing <= 0:
                    return
                size = min(size, max(missing, self._shard_size // 16))
            first = self._num_visits
            yield self._num_shards, [self._visit(number) for number in range(first, first + size)]
            self._num_visits += size
            self._num_shards += 1
            left -= size

    def _visit(self, number: int) -> Visit:
        """Each round visits every prompt once, in an order of its own."""
        visit, place = divmod(number, len(self._prompts))
        if visit not in self._orders:
            generator = torch.Generator().manual_seed(address("visits", *self._seed, visit))
            self._orders = {visit: torch.randperm(len(self._prompts), generator=generator)}
        return self._prompts[int(self._orders[visit][place])], visit

    def _shard(self, shard: int, visits: list[Visit], missing: int | None) -> list[PreferencePair]:
        if not self._store.has(PreferencePair, shard):
            candidates = self._candidates(shard, visits)
            judgments = self._judgments(shard, visits, candidates)
            self._pair_up(shard, visits, candidates, judgments, missing)
        self._add_work(shard)
        return self._store.read(PreferencePair, shard)

    def _candidates(self, shard: int, visits: list[Visit]) -> list[Candidate]:
        if self._store.has(Candidate, shard):
            return self._store.read(Candidate, shard)
        total = len(visits) * self._sampler.num
        with (
            _Clock() as clock,
            self._reporter.phase(f"shard {shard + 1}: answers", total, "answers") as phase,
        ):
            per_visit = self._sampler.sample(visits, on_progress=lambda done, _: phase.advance(done))
        candidates = [candidate for own in per_visit for candidate in own]
        notes = {"seconds": clock.seconds, "tokens": sum(len(c.ids) for c in candidates)}
        self._store.write(Candidate, shard, candidates, notes)
        return candidates

    def _judgments(self, shard: int, visits: list[Visit], candidates: list[Candidate]) -> list[Judgment]:
        if self._store.has(Judgment, shard):
            return self._store.read(Judgment, shard)
        count = self._sampler.num
        shown = [(visits[i // count][0], candidate) for i, candidate in enumerate(candidates)]
        total = len(shown) * max(1, self._judge.num_votes)
        unit = "votes" if self._judge.num_votes else "scores"
        tokens = 0
        with _Clock() as clock, self._reporter.phase(f"shard {shard + 1}: {unit}", total, unit) as phase:

            def progress(done: int, sampled: int) -> None:
                nonlocal tokens
                tokens += sampled
                phase.advance(done)

            judgments = self._judge.judge(shown, on_progress=progress)
        self._store.write(Judgment, shard, judgments, {"seconds": clock.seconds, "tokens": tokens})
        return judgments

    def _pair_up(
        self,
        shard: int,
        visits: list[Visit],
        candidates: list[Candidate],
        judgments: list[Judgment],
        missing: int | None,
    ) -> None:
        counts = Yield()
        pairs: list[PreferencePair] = []
        skipped: list[Skipped] = []
        counts.add_judgments(judgments)
        width = self._sampler.num
        for place, (prompt, visit) in enumerate(visits):
            own = slice(place * width, (place + 1) * width)
            outcome = self._rule.pair(prompt, visit, candidates[own], judgments[own])
            full = missing is not None and len(pairs) >= missing
            if full and isinstance(outcome, PreferencePair):
                outcome = Skipped(prompt.index, visit, "more than asked for")
            counts.add_outcome(outcome)
            if isinstance(outcome, PreferencePair):
                pairs.append(outcome)
            else:
                skipped.append(outcome)
        notes = {"yield": counts.as_dict(), "skipped": [_plain(entry) for entry in skipped]}
        self._store.write(PreferencePair, shard, pairs, notes)

    def _skipped(self, shard: int) -> list[Skipped]:
        return [Skipped(**entry) for entry in self._store.notes(PreferencePair, shard)["skipped"]]

    def _add_work(self, shard: int) -> None:
        sampled = self._store.notes(Candidate, shard)
        judged = self._store.notes(Judgment, shard)
        self.work.generate_seconds += sampled["seconds"]
        self.work.judge_seconds += judged["seconds"]
        self.work.tokens_generated += sampled["tokens"] + judged["tokens"]
        found = self._store.notes(PreferencePair, shard)["yield"]
        for part in fields(Yield):
            if part.name == "skipped":
                self.work.counts.skipped += Counter(found["skipped"])
            else:
                total = getattr(self.work.counts, part.name) + found[part.name]
                setattr(self.work.counts, part.name, total)

    def write_skipped(self) -> None:
        """skipped.json: the visits that gave no pair, for people to look at."""
        texts = {prompt.index: prompt.text for prompt in self._prompts}
        visits = [{**_plain(entry), "prompt": texts[entry.prompt_index]} for entry in self._skips]
        counts = dict(Counter(entry.reason for entry in self._skips))
        write_json(self._store.folder / "skipped.json", {"counts": counts, "visits": visits})

    def _tell(self, pairs: list[PreferencePair]) -> None:
        self._reporter.lines(self.work.counts.lines())
        if self._num_pairs is not None and len(pairs) < self._num_pairs:
            self._reporter.warn(
                f"{len(pairs):,} pairs were found of the {self._num_pairs:,} asked for, after "
                f"{self.work.counts.visits:,} visits ({VISITS_PER_PAIR} for each pair at the most); "
                "training goes on with those. The table above says where the others were lost."
            )


def _plain(entry: Skipped) -> dict[str, Any]:
    return {"prompt_index": entry.prompt_index, "visit": entry.visit, "reason": entry.reason}


class _Clock:
    """Seconds spent in a `with` block."""

    seconds = 0.0

    def __enter__(self) -> _Clock:
        self._start = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.monotonic() - self._start

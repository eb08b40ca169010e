"""A stage's judge pairs: made from the judgments it has stored, shard by shard, below `judge_pairs/`."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from self_rewarding_lm_pytorch.data.files import is_there, write_json
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.judges.meta import Comparison, comparisons, shown_judgments
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.preferences.judgment_pairs import (
    Best,
    Disputed,
    JudgePairRule,
    PlaceWeights,
    best_and_worst_judgment,
    most_disputed,
    place_weights,
    thinned,
)
from self_rewarding_lm_pytorch.preferences.stored_pairs import StoredPairs
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import StageRun
from self_rewarding_lm_pytorch.stages.judge_pair_table import WORDS, lines
from self_rewarding_lm_pytorch.text import judging_codec, reasoning_of

RESPONSES_PER_PAIR = 4
"""With a limit on judge pairs, the judgments of at most this many responses are compared for each."""

_COUNTS = "counts.json"

Place = tuple[int, int]  # a prompt's index and the visit's number


@dataclass(frozen=True, slots=True)
class _Case:
    """A disputed response and what its judge was shown."""

    judge_prompt: str
    disputed: Disputed

    @property
    def place(self) -> Place:
        return self.disputed.judgment.prompt_index, self.disputed.judgment.visit


@dataclass
class JudgePairs:
    """Makes them, or goes on where it was cut off.

    template: the judge's, as it was shown. judge: the meta-judge.
    """

    run: StageRun
    prompts: Sequence[Prompt]
    template: JudgeTemplate
    judge: Judge
    rule: JudgePairRule

    @property
    def store(self) -> ShardStore:
        return _store(self.run)

    def find(self) -> Sequence[PreferencePair]:
        """The pairs, in the order in which their prompts were visited; their scores are Elo ratings."""
        if not is_there(self.store.folder / _COUNTS):
            for shard, cases in enumerate(self._cases(Counter())):
                self._compare(shard, cases)
            self._pair_up()
        counts, _ = judge_pair_figures(self.run)
        self.run.env.reporter.lines(lines(counts))
        if not counts["judge_pairs"]:
            self.run.env.reporter.warn(
                "no judge pair came out of this stage, so its judge is not trained; the table above says "
                "where they were lost"
            )
        return StoredPairs.of(self.store)

    @property
    def _num_shards(self) -> int:
        return self.run.store.num_shards(Judgment)

    def _cases(self, counts: Counter[str]) -> Iterator[list[_Case]]:
        """Of each shard, the most disputed response of each visit; once, where a visit takes up another's.

        What was shown is remembered by its hash, so that of the texts one shard is held at a time; they are
        gone through once for each question that is asked about all of them.
        """
        rule = self.rule
        limit = None if rule.num_pairs is None else RESPONSES_PER_PAIR * rule.num_pairs
        texts = {prompt.index: prompt.text for prompt in self.prompts}
        seen: set[bytes] = set()
        for shard in range(self._num_shards):
            cases: list[_Case] = []
            for place, candidates, judgments in self._visits(shard):
                counts["judge_visits"] += 1
                disputed = most_disputed(judgments, rule.max_judgments)
                if disputed is None:
                    counts["judge_undisputed"] += 1
                    continue
                response = self._answer(candidates[disputed.judgment.candidate_index].text)
                shown = self.template.render(texts[place[0]], response).text
                known = _digest([shown, *(vote.text for vote in disputed.votes)])
                if known in seen or (limit is not None and len(seen) >= limit):
                    counts["judge_repeated" if known in seen else "judge_not_needed"] += 1
                    continue
                seen.add(known)
                cases.append(_Case(shown, disputed))
            yield cases

    def _answer(self, response: str) -> str:
        """As the judge was shown it."""
        reasoning = reasoning_of(self.run.env.codec)
        return response if reasoning is None else reasoning.answer(response) or response

    def _visits(self, shard: int) -> Iterator[tuple[Place, dict[int, Candidate], list[Judgment]]]:
        candidates: dict[Place, dict[int, Candidate]] = defaultdict(dict)
        for candidate in self.run.store.read(Candidate, shard):
            candidates[candidate.prompt_index, candidate.visit][candidate.index] = candidate
        judgments = _per_visit(self.run.store.read(Judgment, shard))
        for place, own in candidates.items():
            yield place, own, judgments[place]

    def _compare(self, shard: int, cases: Sequence[_Case]) -> None:
        if self.store.has(Judgment, shard):
            return
        codec = judging_codec(self.run.env.needed_codec(self.run.name))
        shown = [
            each
            for case in cases
            for each in shown_judgments(codec, case.judge_prompt, case.disputed.judgment, case.disputed.votes)
        ]
        total = sum(len(case.disputed.votes) * (len(case.disputed.votes) - 1) for case in cases)
        started = time.monotonic()
        label = f"shard {shard + 1}: comparisons of judgments"
        with self.run.env.reporter.phase(label, total, "comparisons") as phase:
            judged = self.judge.judge(shown, on_progress=lambda done, _: phase.advance(done // 2))
        self.store.write(Judgment, shard, judged, {"seconds": time.monotonic() - started})

    def _compared(self, shard: int) -> dict[Place, list[Comparison]]:
        judged = _per_visit(self.store.read(Judgment, shard))
        return {place: list(comparisons(own)) for place, own in judged.items()}

    def _pair_up(self) -> None:
        """Weights first, over all comparisons; then which pairs there are; then those that are kept."""
        counts = Counter[str]()
        weights = place_weights(self._counted(counts))
        classes = [int(best.chosen.score or 0) for own in self._pairs(weights, counts) for best, _ in own]
        kept = set(thinned(classes, self.rule.max_share, self.rule.num_pairs))
        higher: list[bool] = []
        place = 0
        for shard, own in enumerate(self._pairs(weights, Counter())):
            chosen = [each for number, each in enumerate(own, place) if number in kept]
            place += len(own)
            higher += [is_higher for best, _ in chosen if (is_higher := _higher(best)) is not None]
            self.store.write(PreferencePair, shard, [pair for _, pair in chosen], {})
        counts["judge_thinned"] = len(classes) - len(kept)
        counts["judge_pairs"] = len(kept)
        shares = {"judge_first_place_wins": weights.second} if counts["judge_comparisons"] else {}
        if higher:
            shares["judge_higher_chosen"] = sum(higher) / len(higher)
        write_json(self.store.folder / _COUNTS, {**{name: float(counts[name]) for name in WORDS}, **shares})

    def _counted(self, counts: Counter[str]) -> Iterator[Comparison]:
        for shard in range(self._num_shards):
            for each in chain.from_iterable(self._compared(shard).values()):
                counts["judge_unread" if each.first_wins is None else "judge_comparisons"] += 1
                yield each

    def _pairs(
        self, weights: PlaceWeights, counts: Counter[str]
    ) -> Iterator[list[tuple[Best, PreferencePair]]]:
        """Of each shard, before any is left out."""
        for shard, cases in enumerate(self._cases(counts)):
            compared = self._compared(shard)
            found: list[tuple[Best, PreferencePair]] = []
            for case in cases:
                made, reason = self._pair(case, compared[case.place], weights)
                if made is None:
                    counts[reason] += 1
                else:
                    found.append(made)
            yield found

    def _pair(
        self, case: _Case, compared: Sequence[Comparison], weights: PlaceWeights
    ) -> tuple[tuple[Best, PreferencePair] | None, str]:
        """A response's best judgment against its worst, or None and why."""
        best = best_and_worst_judgment(case.disputed.votes, compared, weights)
        if best is None:
            is_read = any(each.first_wins is not None for each in compared)
            return None, "judge_ties" if is_read else "judge_unread_responses"
        codec = judging_codec(self.run.env.needed_codec(self.run.name))
        context = self.run.env.policy.max_length
        prompt_ids = codec.prompt_ids(case.judge_prompt)
        chosen, rejected = (
            codec.response_ids(case.judge_prompt, vote.text) for vote in (best.chosen, best.rejected)
        )
        is_long = self.rule.max_tokens is not None and len(chosen) > self.rule.max_tokens
        longest = len(prompt_ids) + max(len(chosen), len(rejected))
        if is_long or (context is not None and longest > context):
            return None, "judge_too_long"
        pair = PreferencePair(
            prompt_index=case.disputed.judgment.prompt_index,
            visit=case.disputed.judgment.visit,
            prompt=case.judge_prompt,
            chosen=best.chosen.text,
            rejected=best.rejected.text,
            prompt_ids=prompt_ids,
            chosen_ids=chosen,
            rejected_ids=rejected,
            chosen_index=best.chosen.index,
            rejected_index=best.rejected.index,
            chosen_score=best.chosen_elo,
            rejected_score=best.rejected_elo,
        )
        return (best, pair), ""


def judge_pair_figures(run: StageRun) -> tuple[dict[str, float], float]:
    """What became of visits and comparisons, and the seconds spent comparing; once all pairs are made."""
    store = _store(run)
    counts: dict[str, float] = json.loads((store.folder / _COUNTS).read_text(encoding="utf-8"))
    notes = (store.notes(Judgment, shard) for shard in range(store.num_shards(Judgment)))
    return counts, sum(float(note["seconds"]) for note in notes)


def _digest(texts: Sequence[str]) -> bytes:
    return hashlib.sha256(json.dumps(texts).encode()).digest()


def _store(run: StageRun) -> ShardStore:
    return ShardStore(run.folder / "judge_pairs")


def _per_visit(judgments: Sequence[Judgment]) -> dict[Place, list[Judgment]]:
    found: dict[Place, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        found[judgment.prompt_index, judgment.visit].append(judgment)
    return found


def _higher(best: Best) -> bool | None:
    """Whether the chosen judgment gives the higher score; None where both give the same."""
    chosen, rejected = best.chosen.score, best.rejected.score
    return None if chosen is None or rejected is None or chosen == rejected else chosen > rejected

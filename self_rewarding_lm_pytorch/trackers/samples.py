"""A few of a stage's prompts with their candidates, votes, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair
from self_rewarding_lm_pytorch.trackers.one import Table

COLUMNS = ("prompt", "candidate", "response", "score", "votes", "became")
NUM_PROMPTS = 8
_CUT = 1_000  # characters of a text


def sample_table(stage: Path) -> Table | None:
    """The first visits of the stage's last shard that has pairs; None where it stored none.

    stage: RUN/stages/NN-NAME. Raises CheckpointError where a shard is damaged.
    """
    store = ShardStore(stage)
    shards = range(store.num_shards(PreferencePair) - 1, -1, -1)
    for shard in shards:
        if pairs := store.read(PreferencePair, shard):
            candidates = store.read(Candidate, shard) if store.has(Candidate, shard) else []
            judgments = store.read(Judgment, shard) if store.has(Judgment, shard) else []
            return Table(f"{stage.name}/samples", COLUMNS, _rows(pairs, candidates, judgments))
    return None


def _rows(
    pairs: Iterable[PreferencePair], candidates: Iterable[Candidate], judgments: Iterable[Judgment]
) -> list[list[str]]:
    written: dict[tuple[int, int], list[Candidate]] = {}
    for candidate in candidates:
        written.setdefault((candidate.prompt_index, candidate.visit), []).append(candidate)
    judged = {(j.prompt_index, j.visit, j.candidate_index): j for j in judgments}
    rows = []
    for pair in list(pairs)[:NUM_PROMPTS]:
        place, prompt = (pair.prompt_index, pair.visit), _cut(pair.prompt)
        for index, text, became in (
            (pair.chosen_index, pair.chosen, "chosen"),
            (pair.rejected_index, pair.rejected, "rejected"),
        ):
            if index < 0:  # given, not sampled
                rows.append([prompt, "given", _cut(text), "", "", became])
        for candidate in sorted(written.get(place, ()), key=lambda each: each.index):
            judgment = judged.get((*place, candidate.index))
            became = {pair.chosen_index: "chosen", pair.rejected_index: "rejected"}.get(candidate.index, "")
            shown = [str(candidate.index), _cut(candidate.text), *_judged(judgment), became]
            rows.append([prompt, *shown])
    return rows


def _judged(judgment: Judgment | None) -> list[str]:
    """The score, and every vote's; what has none says why."""
    if judgment is None:
        return ["", ""]
    votes = ", ".join(vote.status if vote.score is None else f"{vote.score:g}" for vote in judgment.votes)
    score = f"none: {judgment.reason}" if judgment.score is None else f"{judgment.score:g}"
    return [score, votes]


def _cut(text: str) -> str:
    return text if len(text) <= _CUT else f"{text[:_CUT]} […{len(text) - _CUT:,} more]"

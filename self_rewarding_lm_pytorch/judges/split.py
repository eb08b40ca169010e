"""A judge's work divided among the processes of a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.generation.split import Counted
from self_rewarding_lm_pytorch.judges.base import Judge, OnProgress
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt


class SplitJudge:
    """Every process judges its own visits, whole, as some judges compare the candidates of a visit."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.num_votes = judge.num_votes

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        visits = [list(own) for _, own in groupby(shown, key=lambda pair: _visit(pair[1]))]
        own = [pair for visit in visits[processes.own_part(len(visits))] for pair in visit]
        counted = Counted(on_progress)
        parts = processes.each(lambda: self._judge.judge(own, on_progress=counted.add) if own else [])
        counted.add_others()
        return [judgment for part in parts for judgment in part]


def split(judge: Judge) -> Judge:
    """The judge itself where there is one process."""
    return SplitJudge(judge) if processes.world_size() > 1 else judge


def _visit(candidate: Candidate) -> tuple[int, int]:
    return candidate.prompt_index, candidate.visit

"""A judge that is shown answers without the reasoning before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from self_rewarding_lm_pytorch.judges.base import Judge, OnProgress, judgment_of
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt
from self_rewarding_lm_pytorch.text import UNFINISHED, Codec, Reasoning, source_of
from self_rewarding_lm_pytorch.text.reasoning import end_ids


class AnswersOnlyJudge:
    """Another judge, shown what stands behind each candidate's reasoning.

    A candidate that never ended its reasoning is not shown; it has no score, with the reason.
    codec: of the policy; it gives answers the ids that reward models over ids read. None: texts alone are.
    """

    def __init__(self, judge: Judge, codec: Codec | None, reasoning: Reasoning) -> None:
        self.num_votes = judge.num_votes
        self._judge = judge
        self._codec = codec
        self._reasoning = reasoning

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        answers = [self._reasoning.answer(candidate.text) for _, candidate in shown]
        finished = [
            (prompt, self._as_answer(prompt, candidate, answer))
            for (prompt, candidate), answer in zip(shown, answers, strict=True)
            if answer is not None
        ]
        found = iter(self._judge.judge(finished, on_progress=on_progress) if finished else ())
        if on_progress is not None and len(shown) > len(finished):
            on_progress((len(shown) - len(finished)) * max(1, self.num_votes), 0)
        return [
            judgment_of(candidate, (), UNFINISHED) if answer is None else next(found)
            for (_, candidate), answer in zip(shown, answers, strict=True)
        ]

    def _as_answer(self, prompt: Prompt, candidate: Candidate, answer: str) -> Candidate:
        if answer == candidate.text:
            return candidate
        if self._codec is None:
            return replace(candidate, text=answer)
        ids = self._codec.response_ids(source_of(prompt), answer)
        if self._reasoning.is_open:  # the prompt's tokens end inside it
            ids = end_ids(self._codec, self._reasoning) + ids
        return replace(candidate, text=answer, ids=ids)


def answers_only(judge: Judge, codec: Codec | None, reasoning: Reasoning | None) -> Judge:
    """The judge itself where reasoning is not told apart."""
    return judge if reasoning is None else AnswersOnlyJudge(judge, codec, reasoning)

"""The expected score: the score's distribution, read where the judge would write it, and averaged.

Beside the sampled votes of the paper: one forward for an answer, no sampling, no luck and few ties.
The judge writes nothing before its score, so it cannot reason first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from self_rewarding_lm_pytorch.errors import JudgeError
from self_rewarding_lm_pytorch.judges.base import OnProgress, judgment_of
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.reading import AnswerReader, Reading
from self_rewarding_lm_pytorch.judges.slot import ScoreSlot
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt, Vote
from self_rewarding_lm_pytorch.text import Codec


class ExpectedScoreJudge:
    """One vote for each candidate: the mean of the judge's distribution over the whole scores.

    context: the judge model's, in tokens; a judge prompt that leaves no room for the score in it is not
        cut but left unscored, with its reason. None: no limit.
    batch_size: judge prompts read between two reports of progress.
    Raises ConfigError for a judge whose score has no literal prefix.
    """

    num_votes = 1

    def __init__(
        self,
        policy: Policy,
        codec: Codec,
        template: JudgeTemplate,
        parser: ScoreParser,
        *,
        context: int | None,
        use_cache: bool = True,
        batch_size: int = 128,
    ) -> None:
        self._template = template
        self._reader = AnswerReader(
            policy,
            codec,
            lambda tokenize: ScoreSlot.of(
                parser, tokenize, setting="mode='expected'", instead="mode='sampled'"
            ),
            context=context,
            use_cache=use_cache,
            batch_size=batch_size,
        )

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        texts = [self._template.render(prompt.text, candidate.text).text for prompt, candidate in shown]
        readings = self._reader.read(texts, on_progress=on_progress)
        return [
            self._judgment(candidate, self.slot_behind(text), reading)
            for (_, candidate), text, reading in zip(shown, texts, readings, strict=True)
        ]

    def slot_behind(self, judge_prompt: str) -> ScoreSlot:
        """The slot of a score with which the judge's answer to this prompt begins."""
        return self._reader.slot_behind(judge_prompt)

    def _judgment(self, candidate: Candidate, slot: ScoreSlot, reading: Reading) -> Judgment:
        votes = [] if reading.reason else [_vote(candidate, slot, reading.probabilities)]
        return judgment_of(candidate, votes, reading.reason)


def _vote(candidate: Candidate, slot: ScoreSlot, probabilities: tuple[float, ...]) -> Vote:
    score = math.fsum(p * value for p, value in zip(probabilities, slot.values, strict=True))
    if not math.isfinite(score):
        raise JudgeError(
            f"the scores of answer {candidate.index} to prompt {candidate.prompt_index} (visit "
            f"{candidate.visit}) have the probabilities {list(probabilities)}, so it has no expected score; "
            "the judge model's logits are not numbers, or exclude every score: look at its weights"
        )
    return Vote(0, "", score, "expected", probabilities=probabilities)

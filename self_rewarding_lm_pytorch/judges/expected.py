"""The expected score: the score's distribution, read where the judge would write it, and averaged.

Beside the sampled votes of the paper: one forward for an answer, no sampling, no luck and few ties.
The judge writes nothing before its score, so it cannot reason first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from self_rewarding_lm_pytorch.errors import JudgeError
from self_rewarding_lm_pytorch.judges.base import OnProgress, judgment_of, too_long
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.slot import ScoreSlot
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt, Vote
from self_rewarding_lm_pytorch.text import Codec

_TAIL = 64  # characters; what stands further before a score changes no tokenizer's tokens of it


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
        self._policy = policy
        self._codec = codec
        self._template = template
        self._parser = parser
        self._context = context
        self._use_cache = use_cache
        self._batch_size = batch_size
        self._slots: dict[str, ScoreSlot] = {}
        self.slot_behind("")  # what cannot work is refused before anything is sampled

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        texts = [self._template.render(prompt.text, candidate.text).text for prompt, candidate in shown]
        prompts = [self._codec.prompt_ids(text) for text in texts]
        slots = [self.slot_behind(text) for text in texts]
        pairs = zip(prompts, slots, strict=True)
        reasons = [too_long(len(ids), self._limit(slot)) for ids, slot in pairs]
        votes: dict[int, list[Vote]] = defaultdict(list)
        groups: dict[ScoreSlot, list[int]] = defaultdict(list)
        for i in sorted(range(len(shown)), key=lambda i: -len(prompts[i])):
            if not reasons[i]:
                groups[slots[i]].append(i)
        for slot, places in groups.items():
            for start in range(0, len(places), self._batch_size):
                batch = places[start : start + self._batch_size]
                found = slot.probabilities(
                    self._policy, [prompts[i] for i in batch], use_cache=self._use_cache
                )
                for i, row in zip(batch, found.tolist(), strict=True):
                    votes[i] = [_vote(shown[i][1], slot, row)]
                if on_progress is not None:
                    on_progress(len(batch), 0)
        return [judgment_of(candidate, votes[i], reasons[i]) for i, (_, candidate) in enumerate(shown)]

    def slot_behind(self, judge_prompt: str) -> ScoreSlot:
        """The slot of a score with which the judge's answer to this prompt begins.

        Its tokens are those of the answer "Score: 4" where it stands, as training data have them: no line
        break before it, and joined to the prompt's end or template as the tokenizer does that.
        """
        tail = judge_prompt[-_TAIL:]
        if tail not in self._slots:
            self._slots[tail] = ScoreSlot.of(
                self._parser,
                lambda text: self._answer_ids(tail, text),
                setting="mode='expected'",
                instead="mode='sampled'",
            )
        return self._slots[tail]

    def _answer_ids(self, before: str, answer: str) -> tuple[int, ...]:
        ids = self._codec.response_ids(before, answer)
        return ids[: len(ids) - len(self._codec.eos_ids[:1])]

    def _limit(self, slot: ScoreSlot) -> int | None:
        return None if self._context is None else self._context - slot.num_tokens


def _vote(candidate: Candidate, slot: ScoreSlot, probabilities: list[float]) -> Vote:
    score = math.fsum(p * value for p, value in zip(probabilities, slot.values, strict=True))
    if not math.isfinite(score):
        raise JudgeError(
            f"the scores of answer {candidate.index} to prompt {candidate.prompt_index} (visit "
            f"{candidate.visit}) have the probabilities {probabilities}, so it has no expected score; the "
            "judge model's logits are not numbers, or exclude every score: look at its weights"
        )
    return Vote(0, "", score, "expected", probabilities=tuple(probabilities))

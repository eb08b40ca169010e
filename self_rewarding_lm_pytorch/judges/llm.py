"""LLM-as-a-Judge: a model reads the rubric, the prompt and the response, and writes a score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from self_rewarding_lm_pytorch.generation.requests import Completion, Generator, Request, StopRule
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.judges.base import OnProgress, judgment_of, too_long
from self_rewarding_lm_pytorch.judges.forcing import ScoreForcer
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt, Vote
from self_rewarding_lm_pytorch.seeds import address
from self_rewarding_lm_pytorch.text import UNFINISHED, Codec, Reasoning


class LLMJudge:
    """k sampled votes for each candidate; the judgment's score is the mean of those that have one.

    max_new_tokens: a vote's budget. max_prompt_tokens: the longest judge prompt that leaves room for
    it in the context; a longer one is not cut but left unscored, with its reason.
    forcer: what follows a vote without a score; None drops it, as in the papers.
    stop: asked after each token of a vote; True ends it, and its text is kept as written.
    reasoning: how the judge reasons before its verdict; only what stands behind it is parsed.
    """

    def __init__(
        self,
        generator: Generator,
        codec: Codec,
        template: JudgeTemplate,
        parser: ScoreParser,
        *,
        num_votes: int,
        sampling: Sampling,
        max_new_tokens: int,
        max_prompt_tokens: int | None,
        seed: Sequence[int | str],
        forcer: ScoreForcer | None = None,
        stop: StopRule | None = None,
        reasoning: Reasoning | None = None,
    ) -> None:
        self.num_votes = num_votes
        self._generator = generator
        self._codec = codec
        self._template = template
        self._parser = parser
        self._sampling = sampling
        self._max_new_tokens = max_new_tokens
        self._max_prompt_tokens = max_prompt_tokens
        self._seed = tuple(seed)
        self._forcer = forcer
        self._stop = stop
        self._reasoning = reasoning

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        prompts = [self.prompt_ids(prompt, candidate) for prompt, candidate in shown]
        reasons = [too_long(len(ids), self._max_prompt_tokens) for ids in prompts]
        fitting = [i for i, reason in enumerate(reasons) if not reason]
        requests = [
            Request(prompts[i], self._keys("vote", shown[i][1]), self._max_new_tokens, self._stop)
            for i in fitting
        ]
        sampled = self._generator.generate(requests, self._sampling, on_progress=on_progress)
        votes: dict[int, list[Vote]] = defaultdict(list)
        for i, completions in zip(fitting, sampled, strict=True):
            votes[i] = [self._vote(k, completion) for k, completion in enumerate(completions)]
        if self._forcer is not None:
            self._force(self._forcer, shown, prompts, dict(zip(fitting, sampled, strict=True)), votes)
        return [judgment_of(candidate, votes[i], reasons[i]) for i, (_, candidate) in enumerate(shown)]

    def prompt_ids(self, prompt: Prompt, candidate: Candidate) -> tuple[int, ...]:
        """What the judge reads about a candidate."""
        return self._codec.prompt_ids(self._template.render(prompt.text, candidate.text).text)

    def _keys(self, purpose: str, candidate: Candidate) -> tuple[int, ...]:
        place = (candidate.prompt_index, candidate.visit, candidate.index)
        return tuple(address(*self._seed, purpose, *place, vote) for vote in range(self.num_votes))

    def _vote(self, index: int, completion: Completion) -> Vote:
        text = self._codec.decode(completion.ids)
        verdict = text if self._reasoning is None else self._reasoning.answer(text)
        if verdict is None:
            return Vote(index, text, None, "unparsed", UNFINISHED, completion.finish_reason)
        parsed = self._parser.parse(verdict, is_cut=completion.finish_reason == "length")
        if parsed.score is None:
            return Vote(index, text, None, "unparsed", parsed.status, completion.finish_reason)
        return Vote(index, text, parsed.score, "parsed", "", completion.finish_reason)

    def _force(
        self,
        forcer: ScoreForcer,
        shown: Sequence[tuple[Prompt, Candidate]],
        prompts: list[tuple[int, ...]],
        sampled: dict[int, list[Completion]],
        votes: dict[int, list[Vote]],
    ) -> None:
        """Adds a forced vote for each unparsed one, which stays as it was."""
        places = [(i, vote.index) for i in votes for vote in votes[i] if vote.score is None]
        if not places:
            return
        contexts = [
            prompts[i]
            + _without_end(sampled[i][k], self._codec.eos_ids)
            + (forcer.closing if votes[i][k].reason == UNFINISHED else ())
            for i, k in places
        ]
        keys = [self._keys("forced", shown[i][1])[k] for i, k in places]
        for (i, k), score in zip(places, forcer.force(contexts, keys), strict=True):
            votes[i].append(Vote(k, "", score, "forced"))


def _without_end(completion: Completion, eos_ids: tuple[int, ...]) -> tuple[int, ...]:
    ended = completion.finish_reason == "eos" and completion.ids[-1] in eos_ids
    return completion.ids[:-1] if ended else completion.ids

"""LLM-as-a-Judge over HTTP: a served model is shown the judge's prompt; its text is parsed as any judge's."""

from __future__ import annotations

from collections.abc import Sequence

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.server import TextCompletion, TextRequest, seed_of
from self_rewarding_lm_pytorch.generation.server_client import ServerClient
from self_rewarding_lm_pytorch.judges.base import TOO_LONG, OnProgress, judgment_of
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.served_reading import (
    NUM_LIKELIEST,
    checked_logprobs,
    place_of_score,
    shares,
    start_of_answer,
)
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt, Vote
from self_rewarding_lm_pytorch.seeds import address
from self_rewarding_lm_pytorch.text import UNFINISHED, Reasoning

Shown = Sequence[tuple[Prompt, Candidate]]

_APPENDED_TOKENS = 3  # behind an appended prefix: a blank, the score, and one for safety


class ServedJudge:
    """k sampled votes of a served model for each candidate; the judgment's score is their mean.

    A vote has the address that `LLMJudge` gives it; its last 31 bits are the seed that the server gets.
    max_new_tokens: a vote's budget. top_p: None: all tokens. stop: strings that end a vote, which they are
    then not part of. reasoning: how the judge reasons before its verdict, where the server tells that too;
    only what stands behind it is parsed.
    """

    def __init__(
        self,
        client: ServerClient,
        template: JudgeTemplate,
        parser: ScoreParser,
        *,
        num_votes: int,
        temperature: float,
        top_p: float | None,
        max_new_tokens: int,
        seed: Sequence[int | str],
        stop: Sequence[str] = (),
        reasoning: Reasoning | None = None,
    ) -> None:
        self.num_votes = num_votes
        self._client = client
        self._template = template
        self._parser = parser
        self._temperature = temperature
        self._top_p = top_p
        self._max_new_tokens = max_new_tokens
        self._seed = tuple(seed)
        self._stop = tuple(stop)
        self._reasoning = reasoning

    def judge(self, shown: Shown, *, on_progress: OnProgress | None = None) -> list[Judgment]:
        """One judgment for each candidate, in order. Raises ServerError where the server gives none."""
        requests = [self._request(prompt, candidate) for prompt, candidate in shown]
        found = self._client.complete(requests, on_progress=on_progress)
        return [
            served_judgment(candidate, request, completions, [self._vote(*c) for c in enumerate(completions)])
            for (_, candidate), request, completions in zip(shown, requests, found, strict=True)
        ]

    def _request(self, prompt: Prompt, candidate: Candidate) -> TextRequest:
        place = (candidate.prompt_index, candidate.visit, candidate.index)
        return TextRequest(
            self._template.render(prompt.text, candidate.text).text,
            tuple(seed_of(address(*self._seed, "vote", *place, k)) for k in range(self.num_votes)),
            self._max_new_tokens,
            self._temperature,
            self._top_p,
            self._stop,
        )

    def _vote(self, index: int, completion: TextCompletion) -> Vote:
        if completion.fault:
            return Vote(index, "", None, "unparsed", completion.fault, completion.finish_reason)
        verdict = completion.text if self._reasoning is None else self._reasoning.answer(completion.text)
        if verdict is None:
            return Vote(index, completion.text, None, "unparsed", UNFINISHED, completion.finish_reason)
        parsed = self._parser.parse(verdict, is_cut=completion.finish_reason == "length")
        if parsed.score is None:
            return Vote(index, completion.text, None, "unparsed", parsed.status, completion.finish_reason)
        return Vote(index, completion.text, parsed.score, "parsed", "", completion.finish_reason)


class ServedExpectedJudge:
    """One vote for each candidate: the mean of the distribution over the whole scores, at the score's token.

    With endpoint completions the score's literal prefix is appended to the judge's prompt and the next token
    read, as `ExpectedScoreJudge` does. With endpoint chat nothing can be appended: the judge writes, at
    temperature 1, and the token that holds its score is read where it stands, so what it wrote before counts.
    Scores that are not among the likeliest tokens count as 0, and the vote's reason names them. Equal judge
    prompts are asked once, so equal answers tie.

    max_new_tokens: what a judge may write up to its score, with endpoint chat.
    Raises ConfigError for scores that one token cannot tell apart, and with endpoint completions for a judge
    whose score has no literal prefix.
    """

    num_votes = 1

    def __init__(
        self,
        client: ServerClient,
        template: JudgeTemplate,
        parser: ScoreParser,
        *,
        max_new_tokens: int,
        seed: Sequence[int | str],
    ) -> None:
        self._client = client
        self._template = template
        self._parser = parser
        self._scores = _scores(parser)
        self._is_chat = client.settings.endpoint == "chat"
        self._prefix = "" if self._is_chat else _prefix(parser)
        self._max_new_tokens = max_new_tokens if self._is_chat else _APPENDED_TOKENS
        self._seed = tuple(seed)

    def judge(self, shown: Shown, *, on_progress: OnProgress | None = None) -> list[Judgment]:
        """One judgment for each candidate, in order.

        Raises ServerError where the server gives no answer, JudgeError where it tells no log-probabilities.
        """
        texts = [self._template.render(p.text, c.text).text + self._prefix for p, c in shown]
        requests = {text: self._request(text) for text in texts}
        found = self._client.complete(list(requests.values()), on_progress=on_progress)
        answers = dict(zip(requests, found, strict=True))
        if on_progress is not None:
            on_progress(len(texts) - len(requests), 0)  # what others were asked for too
        return [
            served_judgment(candidate, requests[text], answers[text], [self._vote(answers[text][0])])
            for (_, candidate), text in zip(shown, texts, strict=True)
        ]

    def _request(self, text: str) -> TextRequest:
        seed = seed_of(address(*self._seed, "expected", text))
        return TextRequest(text, (seed,), self._max_new_tokens, top_logprobs=NUM_LIKELIEST)

    def _vote(self, completion: TextCompletion) -> Vote:
        text, ended = completion.text, completion.finish_reason
        if completion.fault:
            return Vote(0, "", None, "unparsed", completion.fault, ended)
        tokens = checked_logprobs(self._client.settings, completion)
        place = place_of_score(tokens, text, self._parser) if self._is_chat else start_of_answer(tokens)
        if place is None:
            return Vote(0, text, None, "unparsed", "nothing but blanks was written", ended)
        if isinstance(place, str):
            return Vote(0, text, None, "unparsed", place, ended)
        found = shares(tokens[place], self._scores)
        if not sum(found):
            return Vote(0, text, None, "unparsed", "no valid score is among the likeliest tokens", ended)
        score = sum(p * float(value) for p, value in zip(found, self._scores, strict=True))
        absent = [value for p, value in zip(found, self._scores, strict=True) if not p]
        note = f"not among the likeliest tokens, so 0: {', '.join(absent)}" if absent else ""
        return Vote(0, text, score, "expected", note, ended, found)


def served_judgment(
    candidate: Candidate, request: TextRequest, answers: Sequence[TextCompletion], votes: Sequence[Vote]
) -> Judgment:
    """The votes' mean; a judge prompt that does not fit the server's context has no votes, but a reason."""
    if any(answer.is_too_long for answer in answers):
        length = len(request.prompt)
        reason = f"{TOO_LONG} {length} characters does not fit the server's context"
        return judgment_of(candidate, (), reason)
    return judgment_of(candidate, votes)


def _scores(parser: ScoreParser) -> tuple[str, ...]:
    scores = parser.whole_scores()
    if same := [(a, b) for a in scores for b in scores if a != b and b.startswith(a)]:
        short, long = same[0]
        raise ConfigError(
            f"mode='expected' reads one token of a served judge, but the score {long} begins as {short} "
            "does, so that token does not say which is meant; use a score_range of single digits, or "
            "mode='sampled'"
        )
    return scores


def _prefix(parser: ScoreParser) -> str:
    if parser.literal_prefix is None:
        raise ConfigError(
            "mode='expected' with endpoint completions needs the text that stands before the score, but this "
            "score_pattern does not begin with plain text; use endpoint chat, or mode='sampled'"
        )
    return parser.literal_prefix.rstrip()

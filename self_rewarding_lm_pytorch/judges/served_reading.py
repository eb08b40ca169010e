"""Reading a served judge's answer from the likeliest tokens that the server tells."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from self_rewarding_lm_pytorch.errors import JudgeError
from self_rewarding_lm_pytorch.generation.server import ServerSettings, TextCompletion, TokenReading
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser

NUM_LIKELIEST = 20
"""Tokens asked for at each place: as many as vLLM's and OpenAI's chat interfaces give at the most."""

# What may stand around an answer in its token: blanks, as also tokenizers write them, and markdown's marks.
_AROUND = "\\s\u2581\u0120\u010a*_`\"'"
_BEFORE = re.compile(rf"\A[{_AROUND}:(\[{{]+")
_BEHIND = re.compile(rf"\A[{_AROUND}.)\]}}]+")  # of the token turned round: linear


def core(token: str) -> str:
    """A token without blanks and marks: "3" for " 3" and "**3**"."""
    return _BEHIND.sub("", _BEFORE.sub("", token)[::-1])[::-1]


def checked_logprobs(settings: ServerSettings, completion: TextCompletion) -> tuple[TokenReading, ...]:
    """The tokens' readings. Raises JudgeError where the server tells none."""
    if completion.tokens is None:
        raise JudgeError(
            f"the server at {settings.url} tells no log-probabilities with endpoint {settings.endpoint}, so "
            "the expected score of an answer cannot be read; use mode: sampled, or a server that tells "
            "them (vLLM and SGLang do)"
        )
    return completion.tokens


def place_of_score(tokens: Sequence[TokenReading], text: str, parser: ScoreParser) -> int | str:
    """Where the token stands that holds the score of what was written, or why there is none.

    It is the last token up to which the parser reads the score that it reads in the whole text.
    """
    parsed = parser.parse(text)
    if parsed.score is None:
        return parsed.status
    texts = {value for value in parser.whole_scores() if float(value) == parsed.score}
    written = [reading.token for reading in tokens]
    for place in reversed(range(len(tokens))):
        is_score = core(written[place]) in texts
        if is_score and parser.parse("".join(written[: place + 1])).score == parsed.score:
            return place
    return f"the score {parsed.score:g} is no whole score that one token holds"


def start_of_answer(tokens: Sequence[TokenReading]) -> int | None:
    """Where the first token stands that is more than blanks and marks."""
    return next((place for place, reading in enumerate(tokens) if core(reading.token)), None)


def shares(reading: TokenReading, answers: Sequence[str]) -> tuple[float, ...]:
    """Each answer's share of the probability that all of them have in this place; zeros where they have none.

    Tokens that write the same answer ("3" and " 3") count together.
    """
    mass = [
        math.fsum(math.exp(logprob) for token, logprob in reading.logprobs if core(token) == answer)
        for answer in answers
    ]
    total = math.fsum(mass)
    return tuple(part / total for part in mass) if total > 0 else (0.0,) * len(mass)

"""A user's own judge: what it gives is checked, and a call of it may take so long and no longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.judges.base import Judge, OnProgress
from self_rewarding_lm_pytorch.judges.time_limit import TimedOut, within
from self_rewarding_lm_pytorch.objects import accepts, load_object, made_by
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt

WANTED = "a class or function that takes the judge's options and gives an object with judge"
_BATCH = 256  # candidates shown at once, or one visit's where they are more


def load_judge(named: Any) -> Any:
    """What `file.py:name` or `package.module:name` names, or the object; ConfigError where it is none."""
    found = load_object(named, what="judge", wanted=WANTED) if isinstance(named, str) else named
    if not (callable(found) or callable(getattr(found, "judge", None))):
        raise ConfigError(f"judge {named!r} is {found!r:.80}; give {WANTED}, or such an object itself")
    return found


def made_judge(found: Any, options: dict[str, Any], name: str) -> Any:
    """The judge that a factory makes of the options; an object that judges is taken as it is."""
    is_ready = not isinstance(found, type) and callable(getattr(found, "judge", None))
    if is_ready and options:
        raise ConfigError(
            f"judge {name} is an object that is made already, so options {', '.join(options)} would have no "
            "effect; name its class, or leave them out"
        )
    made = found if is_ready else made_by(found, options, what=f"judge {name}")
    if isinstance(made, type) or not callable(getattr(made, "judge", None)):
        raise ConfigError(
            f"judge {name}: {made!r:.80} has no method judge(shown, *, on_progress=None), which takes "
            "(prompt, candidate) pairs and gives a Judgment for each"
        )
    return made


class OwnJudge:
    """Shows whole visits, so that a judge may compare a visit's candidates.

    timeout_seconds: of one call, of at most 256 candidates or one visit; a JudgeError names the batch that
    took longer. None: it may take any time. A score that is NaN or infinite is no score.
    """

    def __init__(self, judge: Any, name: str, *, timeout_seconds: float | None) -> None:
        self._judge: Judge = judge
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._reports = accepts(judge.judge, "on_progress")
        self.num_votes = int(getattr(judge, "num_votes", 0))

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        judgments: list[Judgment] = []
        for batch in _batches(shown):
            given = self._asked(batch, on_progress)
            judgments += [self._checked(pair[1], one) for pair, one in zip(batch, given, strict=True)]
            if on_progress is not None and not self._reports:
                on_progress(len(batch) * max(1, self.num_votes), 0)
        return judgments

    def _asked(self, batch: list[tuple[Prompt, Candidate]], on_progress: OnProgress | None) -> list[Any]:
        reports = {"on_progress": on_progress} if self._reports else {}
        first = f"the first is {batch[0][1].text[:80]!r} to the prompt {batch[0][0].text[:80]!r}"
        try:
            given = within(self._timeout_seconds, lambda: list(self._judge.judge(batch, **reports)))
        except TimedOut:
            raise JudgeError(
                f"judge {self._name} took longer than {self._timeout_seconds:g} seconds for {len(batch)} "
                f"responses; {first}. Look for what it waits for there, or raise judge.timeout_seconds"
            ) from None
        except JudgeError:
            raise
        except Exception as error:  # anybody's code
            raise JudgeError(
                f"judge {self._name} failed on {len(batch)} responses: {error!r:.300}; {first}. Mend it, or "
                "have it give a Judgment with score None and a reason where it cannot tell"
            ) from error
        if len(given) != len(batch):
            raise JudgeError(
                f"judge {self._name} gave {len(given)} judgments for {len(batch)} responses; it must give "
                "one for each, in order"
            )
        return given

    def _checked(self, candidate: Candidate, given: Any) -> Judgment:
        if not isinstance(given, Judgment):
            raise JudgeError(
                f"judge {self._name} gave {given!r:.80} for a response; it must give a Judgment "
                "(judgment_of in self_rewarding_lm_pytorch.judges.base makes one), or be a reward function, "
                "which gives numbers"
            )
        place = (candidate.prompt_index, candidate.visit, candidate.index)
        if (given.prompt_index, given.visit, given.candidate_index) != place:
            raise JudgeError(
                f"judge {self._name} gave a judgment of (prompt, visit, candidate) "
                f"{(given.prompt_index, given.visit, given.candidate_index)} in the place of {place}; "
                "judgments must come in the order in which responses were shown"
            )
        score = given.score
        if score is None:
            return given if given.reason else replace(given, reason="the judge gave no score and no reason")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise JudgeError(f"judge {self._name} gave the score {score!r:.80}; give a number, or None")
        if not math.isfinite(score):
            return replace(given, score=None, reason=f"the score is {score}")
        return replace(given, score=float(score))


def _batches(shown: Sequence[tuple[Prompt, Candidate]]) -> list[list[tuple[Prompt, Candidate]]]:
    """Whole visits, as many together as there is room for."""
    batches: list[list[tuple[Prompt, Candidate]]] = []
    for _, group in groupby(shown, key=lambda pair: (pair[1].prompt_index, pair[1].visit)):
        visit = list(group)
        if batches and len(batches[-1]) + len(visit) <= _BATCH:
            batches[-1] += visit
        else:
            batches.append(visit)
    return batches

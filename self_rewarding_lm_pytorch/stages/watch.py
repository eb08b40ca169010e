"""Watches a stage while it runs: counts what it makes, and gives the alarms that its plan asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from self_rewarding_lm_pytorch import alarms, processes
from self_rewarding_lm_pytorch.alarms import Alarm, Limit, Numbers, StopRun
from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.preferences.search import VISITS_PER_PAIR
from self_rewarding_lm_pytorch.preferences.yields import Yield
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment
from self_rewarding_lm_pytorch.stages.alarm_log import AlarmLog
from self_rewarding_lm_pytorch.stages.bad_batch import Batch, save_batch
from self_rewarding_lm_pytorch.stages.tally import Tally

NUMBERS = "watched.json"
"""In a stage's folder: what a later stage, or this one gone on with, compares with."""

_OF_CANDIDATES = ("never_ends", "duplicates", "length_growth")
_OF_JUDGMENTS = ("parse_rate", "tie_rate", "score_collapse")
_OF_TRAINING = ("chosen_logprob", "not_finite")


class Watch:
    """Of one stage of a run. A stage's code calls it on all processes alike; it may raise StopRun.

    limits: the alarms that are on. folder: the stage's, RUN/stages/NN-NAME; None: nothing is written, and
    only `not_finite` speaks. kind: the stage's, whose candidates are compared in length.
    """

    def __init__(
        self,
        limits: Mapping[str, Limit] | None = None,
        folder: Path | None = None,
        kind: str = "",
        reporter: Reporter | None = None,
    ) -> None:
        self._limits = dict(limits or {}) if folder is not None else {}
        self._folder = folder
        self._kind = kind
        self._reporter = reporter or Reporter(quiet=True)
        self._spoken: set[str] = set()
        self._tally = Tally()
        self._num_shards = 0  # of the search under way
        self._is_counting = False
        self._before: dict[str, Any] = {}  # what this stage had stored when it was cut off
        self._first: dict[str, dict[str, float]] = {}
        self._former: tuple[str, float | None] = ("", None)

    def begin(self) -> None:
        """The stage begins, or goes on. Shards are told again from the first; training may go on midway."""
        if self._folder is None:
            return
        self._log.forget(self._stage, self._is_off)
        self._before = processes.agreed(_stored(self._folder))
        self._first = self._before.get("first", {})
        self._former = processes.agreed(self._former_mean())

    def close(self) -> None:
        """The stage has done its work."""
        if self._tally.candidates:
            self._store()

    def sampled(self, shard: int, candidates: Sequence[Candidate], again: Collection[int] = ()) -> None:
        """A shard of candidates that nobody judges; a shard numbered no higher begins another search."""
        if self._folder is None:
            return
        self._count(shard)
        self._tally.add_candidates(candidates, again)
        self._weigh(_OF_CANDIDATES, "shard", shard + 1)

    def judged(
        self,
        shard: int,
        candidates: Sequence[Candidate],
        judgments: Sequence[Judgment],
        again: Collection[int] = (),
    ) -> None:
        """A shard of candidates and their judgments. again: `key` of those that earlier visits had left."""
        if self._folder is None:
            return
        self._count(shard)
        self._tally.add_candidates(candidates, again)
        self._tally.add_judgments(candidates, judgments, again)
        self._weigh((*_OF_JUDGMENTS, *_OF_CANDIDATES), "shard", shard + 1)

    def paired(self, shard: int, counts: Yield, asked: int | None) -> None:
        """The yield of all shards up to this one. asked: pairs; None: each prompt is visited once."""
        found = Numbers(
            visits=counts.visits, pairs=counts.pairs, asked=asked, visits_per_pair=VISITS_PER_PAIR
        )
        self._weigh(("pair_yield",), "shard", shard + 1, found)

    def logged(self, step: int, metrics: Mapping[str, float], training: str = "steps") -> None:
        """A logged step, from 1. training: which of the stage's, where it has several."""
        names = ("loss", "chosen_logprob_per_token")
        loss, logprob = processes.agreed([metrics.get(name) for name in names])
        if loss is not None and not math.isfinite(loss):
            self.not_finite(step, "loss", loss, rate=metrics.get("learning_rate"), training=training)
        if self._folder is None or logprob is None:
            return
        known = self._first.get(training)
        if known is None or step <= known["step"]:
            self._first[training] = known = {"step": step, "chosen_logprob_per_token": logprob}
            self._store()
        first = known["chosen_logprob_per_token"]
        self._weigh(("chosen_logprob",), "step", step, Numbers(first_logprob=first, logprob=logprob))

    def not_finite(
        self,
        step: int,
        what: str,
        value: float,
        *,
        rate: float | None = None,
        batch: Batch | None = None,
        training: str = "steps",
    ) -> NoReturn:
        """The loss or gradient of a step (from 1) is not finite. Saves its batch, where known, and stops."""
        where = f"the {what} of step {step:,} is not finite ({value})"
        lower = "lower the learning rate" + ("" if rate is None else f" ({rate:g})")
        text = f"{where}, so the update would destroy the weights. {lower[0].upper()}{lower[1:]}, or look at "
        if batch and self._folder is not None:
            facts = {"stage": self._stage, "training": training, "step": step, "what": what}
            facts |= {"value": str(value), "learning_rate": rate}
            path = self._folder / "not-finite" / f"{training}-{step:06d}"
            text += f"that batch: {save_batch(path, batch, facts)} holds its token ids"
        else:
            text += "that step's data"
        text += (
            ". The run was stopped; all it did before is kept. Begin anew with --fresh once that is mended."
        )
        alarm = Alarm("not_finite", self._stage, "step", step, None, None, "stop", text)
        if self._folder is not None:
            self._log.record(alarm)
        raise StopRun(text)

    @property
    def _stage(self) -> str:
        return self._folder.name if self._folder is not None else ""

    @property
    def _log(self) -> AlarmLog:
        assert self._folder is not None
        return AlarmLog(self._folder.parent.parent)

    def _is_off(self, kind: str) -> bool:
        return kind in alarms.RULES and kind not in self._limits

    def _count(self, shard: int) -> None:
        if not self._is_counting:  # what was said of the shards before is said again
            self._is_counting = True
            self._log.forget(self._stage, lambda kind: kind not in _OF_TRAINING)
        if shard < self._num_shards:  # a second search of the stage
            self._tally = Tally()
        self._num_shards = shard + 1

    def _numbers(self) -> Numbers:
        tally = self._tally
        score, count = tally.scores.top
        former, mean = self._former
        return Numbers(
            votes=tally.votes,
            votes_parsed=tally.votes_parsed,
            compared=tally.compared,
            tied=tally.tied,
            scores=tally.scores.num,
            top_score=score,
            top_count=count,
            candidates=tally.candidates,
            tokens=tally.tokens,
            cut_off=tally.cut_off,
            grouped=tally.grouped,
            repeated=tally.repeated,
            former=former,
            former_tokens=mean,
        )

    def _weigh(
        self, kinds: Sequence[str], unit: alarms.Unit, at: int, numbers: Numbers | None = None
    ) -> None:
        """Gives those of these alarms that the numbers call for; then stops, where one of them says so."""
        watched = [kind for kind in kinds if kind in self._limits and kind not in self._spoken]
        if not watched:
            return
        numbers = numbers or self._numbers()
        found = [
            alarms.alarm_of(kind, numbers, self._limits[kind], stage=self._stage, unit=unit, at=at)
            for kind in watched
        ]
        given = processes.agreed([alarm for alarm in found if alarm is not None])
        for alarm in given:
            self._spoken.add(alarm.kind)
            self._log.record(alarm)
            if alarm.then == "warn" and processes.is_main():
                self._reporter.warn(alarms.line_of(alarm))
        stopping = next((alarm for alarm in given if alarm.then == "stop"), None)
        if stopping is not None:
            raise StopRun(alarms.stop_text(stopping))

    def _store(self) -> None:
        if self._folder is None:
            return
        counted = vars(self._tally) if self._tally.candidates else self._before
        counts = {name: counted.get(name, 0) for name in ("candidates", "tokens")}
        write_json(self._folder / NUMBERS, {"kind": self._kind, **counts, "first": self._first})

    def _former_mean(self) -> tuple[str, float | None]:
        """The last stage of this kind before this one that sampled enough, and its answers' mean length."""
        assert self._folder is not None
        enough = alarms.RULES["length_growth"].at_least
        others = [
            folder for folder in self._folder.parent.glob("*") if _number(folder) < _number(self._folder)
        ]
        for folder in sorted(others, key=_number, reverse=True):
            found = _stored(folder)
            if found.get("kind") == self._kind and found.get("candidates", 0) >= enough:
                return folder.name, found["tokens"] / found["candidates"]
        return "", None


def _number(folder: Path) -> int:
    """Of a stage's folder, from 1."""
    digits = folder.name.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def _stored(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

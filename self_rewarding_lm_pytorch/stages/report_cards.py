"""Report cards of a run: how well its model judges before the first stage and after each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch import interrupts, processes
from self_rewarding_lm_pytorch.alarms import Alarm, StopRun
from self_rewarding_lm_pytorch.data.files import is_there, write_json
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.records import JudgedPrompt
from self_rewarding_lm_pytorch.stages.alarm_log import AlarmLog
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig
from self_rewarding_lm_pytorch.stages.card_judge import card_of, reader_of
from self_rewarding_lm_pytorch.stages.card_settings import Card, GuardSettings, ReportCardSettings, card_value
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings

__all__ = ["FOLDER", "ReportCards", "StopRun", "around_stages", "stored_cards", "summary_rows"]

FOLDER = "report_cards"
START = "start"


class ReportCards:
    """Takes the cards of one run, each once; what was taken is read again from the run's folder.

    folder: the run's. stages: its stages, in order.
    """

    def __init__(
        self,
        settings: ReportCardSettings | None,
        stages: Sequence[StageConfig],
        folder: Path,
        env: Environment,
    ) -> None:
        self._settings = settings
        self._stages = stages
        self._folder = folder
        self._env = env

    def check(self) -> None:
        """Raises ConfigError or DataError for what can be known before any training."""
        if self._settings is None:
            return
        check_held_out(self._settings, self._stages)
        self._judge.judge_template(reader_of(self._judge, self._env)[1])
        if not self._settings.stage and not self._given:
            raise ConfigError("report_card: its data hold no prompts, so there is nothing to judge")

    def take(self, number: int) -> None:
        """The card of the policy as it is: after stage `number`, or before the first where it is 0."""
        settings, env = self._settings, self._env
        if settings is None or is_there(self._path(number)):
            return
        if number and getattr(self._stages[number - 1], "train", None) is None:
            return  # a stage that does not train leaves the judge as it was
        if self._is_fixed and self._taken():
            env.reporter.say_once("  report card: another model judges, so one card of it is enough")
            return
        source = self._source(number)
        if source is None:
            env.reporter.say(f"  report card: none yet, stage {settings.stage!r} has not held anything out")
            return
        card = self._card(number, self._given if source is settings.data else self._judged(source))
        before = [old for old in self._taken() if old["number"] < number]
        write_json(self._path(number), card)
        self._say(card, before[-1] if before else None)
        interrupts.unit_done()

    def guard(self, number: int) -> None:
        """Warns, or raises StopRun, where the card after stage `number` is too much worse."""
        guard = self._settings.guard if self._settings is not None else None
        if guard is None or not is_there(self._path(number)):
            return
        cards = [card for card in self._taken() if card["number"] <= number]
        name = self._name(number)
        if card_value(cards[-1], guard.metric) is None:
            self._env.reporter.say_once(f"  report card: {guard.metric} cannot be told on these data")
        fault = guard.fault(name, cards)
        if not fault:
            return
        said = f"report card: {fault}. Pairs that this judge makes are worth less: "
        advice = "mix judge data into the stage's training, train less, or take another judge"
        self._record(number, guard, card_value(cards[-1], guard.metric), said + advice)
        if guard.then == "warn":
            self._env.reporter.warn(said + advice)
            return
        raise StopRun(
            f"{said}{advice}. The run was stopped after {name} (report_card.guard); all it did is kept. "
            "To go on from here, change the guard and run it again, for example with "
            "--set report_card.guard.then=warn; or change the plan and begin anew with --fresh."
        )

    def _record(self, number: int, guard: GuardSettings, value: float | None, text: str) -> None:
        """A line of alarms.jsonl."""
        is_low = guard.min is not None and value is not None and value < guard.min
        bound = guard.min if is_low else guard.max_fall
        stage = self._path(number).stem
        alarm = Alarm("judge_agreement", stage, "stage", number, value, bound, guard.then, f"{text}.")
        AlarmLog(self._folder).record(alarm)

    def _taken(self) -> list[Card]:
        return processes.agreed(stored_cards(self._folder))

    @cached_property
    def _judge(self) -> JudgeSettings:
        given = self._settings.judge if self._settings is not None else None
        owners = [part for stage in self._stages for part in (stage, getattr(stage, "judge_data", None))]
        owns = (getattr(owner, "judge", None) for owner in owners)
        first = next((own for own in owns if isinstance(own, JudgeSettings)), None)
        return given or first or JudgeSettings()

    @property
    def _is_fixed(self) -> bool:
        """Whether the judge is no stage's model, so that training does not change it."""
        judge = self._judge
        return any(other is not None for other in (judge.model, judge.server, judge.custom))

    @cached_property
    def _given(self) -> list[JudgedPrompt]:
        """The plan's own judged prompts; an iterable can be read only once."""
        assert self._settings is not None
        return self._judged(self._settings.data)

    def _name(self, number: int) -> str:
        return self._stages[number - 1].name if number else START

    def _path(self, number: int) -> Path:
        return self._folder / FOLDER / f"{number:02d}-{self._name(number)}.json"

    def _source(self, after: int) -> Any:
        """The judged data known after so many stages, resumed or not; None where there are none yet."""
        assert self._settings is not None
        if not self._settings.stage:
            return self._settings.data
        number = [stage.name for stage in self._stages].index(self._settings.stage) + 1
        file = self._folder / "stages" / f"{number:02d}-{self._settings.stage}" / "held-out.jsonl"
        return file.resolve() if number <= after and is_there(file) else None

    def _judged(self, source: Any) -> list[JudgedPrompt]:
        from self_rewarding_lm_pytorch.data.judged import judged_prompts

        assert self._settings is not None
        prompts = judged_prompts(source, base=self._env.base, lang=self._settings.lang)
        return prompts[: self._settings.num]

    def _card(self, number: int, judged: Sequence[JudgedPrompt]) -> Card:
        from self_rewarding_lm_pytorch.evaluation.twins import NUM_TWINS

        assert self._settings is not None
        name = self._name(number)
        card = card_of(
            self._judge,
            self._env,
            judged,
            name=name,
            num_probes=NUM_TWINS if self._settings.probes else 0,
            pad=self._settings.pad,
        )
        return {"model": name, "number": number, **card.as_dict()}

    def _say(self, card: Card, before: Card | None) -> None:
        from self_rewarding_lm_pytorch.evaluation.card_text import compact_lines

        comparable = before if before is not None and before["data"] == card["data"] else None
        if before is not None and comparable is None:
            self._env.reporter.warn(
                "the judged data of the report card have changed since the card before, so the two are "
                "not compared"
            )
        self._env.reporter.lines(compact_lines(card, comparable))


def check_held_out(settings: ReportCardSettings, stages: Sequence[StageConfig]) -> None:
    """Raises ConfigError where the stage whose data are held out is none of these."""
    names = [stage.name for stage in stages]
    if settings.stage and settings.stage not in names:
        raise ConfigError(
            f"report_card: held_out_of names the stage {settings.stage!r}, which this plan "
            f"does not have, so there would be no judged data; its stages: {', '.join(names)}"
        )


def stored_cards(folder: Path) -> list[Card]:
    """The cards in a run's folder, in the order of its stages."""
    files = sorted((folder / FOLDER).glob("*.json"), key=lambda file: int(file.name.partition("-")[0]))
    return [_read(file) for file in files]


def _read(file: Path) -> Card:
    try:
        card: Card = json.loads(file.read_text(encoding="utf-8"))
        return {**card, "number": int(card["number"])}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the report card {file} was altered ({error}), so the run's cards cannot be compared; put it "
            "back from a copy, or remove it: the summary then goes without it"
        ) from error


def summary_rows(cards: Sequence[Card]) -> list[dict[str, Any]]:
    """The cards as rows of a summary: each metric's value, and its interval where there is one."""
    rows = []
    for card in cards:
        metrics = card["metrics"].items()
        rows.append(
            {
                "model": card["model"],
                "num_prompts": card["num_prompts"],
                "num_responses": card["num_responses"],
                **{name: metric["value"] for name, metric in metrics},
                "intervals": {n: [m["low"], m["high"]] for n, m in metrics if m["low"] is not None},
            }
        )
    return rows


def around_stages(outcomes: Sequence[dict[str, Any]], cards: Sequence[Card]) -> list[dict[str, Any]]:
    """The stages' figures with the key metrics of the cards before and after each, where there are such."""
    values = {card["number"]: _key_values(card) for card in cards}
    found = []
    for number, outcome in enumerate(outcomes, 1):
        before = max((n for n in values if n < number), default=None)
        parts = {} if before is None or number not in values else {"judge_before": values[before]}
        if number in values:
            parts["judge_after"] = values[number]
        found.append({**outcome, **parts})
    return found


def _key_values(card: Card) -> dict[str, float | None]:
    from self_rewarding_lm_pytorch.evaluation.card_text import KEY_METRICS

    return {name: card_value(card, name) for name in KEY_METRICS if name in card["metrics"]}

"""What `evaluate` does: answers, verdicts, figures, each written as soon as it is there and used again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from self_rewarding_lm_pytorch.cli.evaluate_models import Contestant
from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.evaluation import alpaca, tournament
from self_rewarding_lm_pytorch.evaluation.answers import Answer, as_rows, from_rows, sample_answers
from self_rewarding_lm_pytorch.evaluation.head_to_head import Verdict
from self_rewarding_lm_pytorch.evaluation.kept import kept
from self_rewarding_lm_pytorch.evaluation.tournament import Pair, Tournament
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.parts.models import NamedModel, environment_of
from self_rewarding_lm_pytorch.parts.rows import Asked, prompt_record, written
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Prompt
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.budgets import DEFAULT_RESPONSE, Budgets
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings
from self_rewarding_lm_pytorch.stages.served_judging import served_budgets, served_judge
from self_rewarding_lm_pytorch.text import UNFINISHED, Codec, reasoning_of

_STAGE = "evaluate"  # how errors name what samples and judges here


@dataclass(frozen=True)
class Arbiter:
    """Who judges: settings of a language model, or a reward."""

    settings: JudgeSettings | None
    reward: Callable[[], Judge] | None  # a function's or a reward model's judge
    model: NamedModel | None  # the judging model; None where it is served, or a function
    name: str
    identity: Any  # JSON that differs where its verdicts may


@dataclass
class Evaluation:
    """One evaluation; `folder` is where its files go."""

    prompts: Sequence[Asked]
    models: Sequence[Contestant]
    arbiter: Arbiter
    sampling: SamplingSettings
    max_new_tokens: int | None
    seed: int
    folder: Path
    baseline: str
    dataset: str
    reporter: Reporter
    tie_margin: float = 0.0
    device: str = "auto"  # as a plan says it

    def run(self, pairs: Sequence[Pair]) -> Tournament:
        judge, budgets = self._judge()
        for note in budgets.notes:
            self.reporter.say(note)
        answers = {model.name: self._answers(model, budgets.response) for model in self.models}
        hashes = {name: _hash(as_rows(own)) for name, own in answers.items()}
        with self.reporter.phase("comparing", len(pairs), "pairs") as phase:

            def keep(pair: Pair, make: Callable[[], list[Verdict]]) -> list[Verdict]:
                path = self.folder / "verdicts" / f"{safe(pair[0])}--{safe(pair[1])}.json"
                basis = {
                    "answers": [hashes[name] for name in pair],
                    "judge": self.arbiter.identity,
                    "tie_margin": self.tie_margin,
                    "seed": self.seed,
                }
                rows = kept(path, basis, lambda: tournament.verdict_rows(make()))
                phase.advance()
                return tournament.verdicts_from_rows(rows)

            asked = _read(self.prompts, None)
            found = tournament.judged(judge, asked, answers, pairs, tie_margin=self.tie_margin, keep=keep)
        result = tournament.result(answers, found, self.baseline, seed=(self.seed, _STAGE))
        self._write(answers, result)
        return result

    def _judge(self) -> tuple[Judge, Budgets]:
        """The judge, and what answers and judgments may take in its context."""
        wanted = self.max_new_tokens or DEFAULT_RESPONSE
        if self.arbiter.reward is not None:
            return self.arbiter.reward(), Budgets(wanted, 0)
        settings, seed = self.arbiter.settings, (self.seed, _STAGE, "judge")
        assert settings is not None
        if settings.server is not None:
            budgets = served_budgets(settings, settings.server, Budgets(wanted, 0))
            budget = budgets.judgment
            return served_judge(
                settings, settings.server, budget=budget, seed=seed, num_candidates=2
            ), budgets
        assert self.arbiter.model is not None
        env = self._environment(self.arbiter.model)
        read = _read(self.prompts, env.codec)
        budgets = settings.budgets(env, _STAGE, read, response=wanted, max_seq_len=None)
        return settings.build(env, _STAGE, budget=budgets.judgment, seed=seed), budgets

    def _answers(self, model: Contestant, max_new_tokens: int) -> list[Answer]:
        basis = {
            "model": model.identity,
            "prompts": _hash(written(self.prompts)),
            "sampling": self.sampling.model_dump(mode="json"),
            "max_new_tokens": max_new_tokens,
            "seed": self.seed,
        }
        path = self.folder / safe(model.name) / "answers.json"
        return from_rows(kept(path, basis, partial(self._sampled, model, max_new_tokens)))

    def _sampled(self, model: Contestant, max_new_tokens: int) -> list[dict[str, Any]]:
        env = self._environment(model.model)
        codec = env.needed_codec(_STAGE)
        with self.reporter.phase(f"{model.name}: answers", len(self.prompts), "answers") as phase:
            found = sample_answers(
                env.generator(),
                codec,
                _read(self.prompts, codec),
                sampling=self.sampling.sampling(),
                max_new_tokens=max_new_tokens,
                max_length=env.policy.max_length,
                seed=(self.seed, _STAGE),
                on_progress=lambda answers, tokens: phase.advance(answers),
            )
        return as_rows(self._without_reasoning(found, codec, model.name))

    def _without_reasoning(self, found: list[Answer], codec: Codec, name: str) -> list[Answer]:
        """What stands behind reasoning, where the model's chat tells; nothing where that never ended."""
        if (reasoning := reasoning_of(codec)) is None:
            return found
        texts = [reasoning.answer(answer.text) for answer in found]
        if num := texts.count(None):
            self.reporter.say(f"{name}: {num:,} of {len(found):,} answers are empty: {UNFINISHED}")
        return [replace(answer, text=text or "") for answer, text in zip(found, texts, strict=True)]

    def _environment(self, model: NamedModel) -> Environment:
        return environment_of(model, device=self.device, seed=self.seed, reporter=self.reporter)

    def _write(self, answers: Mapping[str, Sequence[Answer]], result: Tournament) -> None:
        base, texts = (self.baseline, answers[self.baseline]), [p.text for p in _read(self.prompts, None)]
        for name, own in answers.items():
            folder, pair = self.folder / safe(name), (name, self.baseline)
            rows = alpaca.model_outputs(texts, own, name=name, dataset=self.dataset)
            write_json(folder / "model_outputs.json", rows)
            if pair in result.verdicts:
                told = {"annotator": self.arbiter.name, "dataset": self.dataset}
                notes = alpaca.annotation_rows(texts, (name, own), base, result.verdicts[pair], **told)
                write_json(folder / "annotations.json", notes)
        against = [row for row in result.win_rates if row.second == self.baseline]
        alpaca.write_leaderboard(self.folder, alpaca.leaderboard(against, *base))
        write_json(self.folder / "evaluation.json", self._settings() | result.as_dict())

    def _settings(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "judge": self.arbiter.identity,
            "dataset": self.dataset,
            "num_prompts": len(self.prompts),
            "baseline": self.baseline,
            "sampling": self.sampling.model_dump(mode="json") | {"max_new_tokens": self.max_new_tokens},
            "seed": self.seed,
            "tie_margin": self.tie_margin,
        }


def validated(what: str, kind: Any, values: Mapping[str, Any]) -> Any:
    """Settings from the command line, or a ConfigError that names what is wrong with them."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc'])) or 'settings'}: {p['msg']}" for p in error.errors()]
        raise ConfigError(f"{what} cannot be used: {'; '.join(problems)}") from error


def safe(name: str) -> str:
    """A model's name as a folder's."""
    return re.sub(r"[^\w.\-]+", "-", name).strip("-.") or "model"


def _read(prompts: Sequence[Asked], codec: Codec | None) -> list[Prompt]:
    """As a model reads them; without a codec as texts alone."""
    return [prompt_record(index, asked, codec) for index, asked in enumerate(prompts)]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

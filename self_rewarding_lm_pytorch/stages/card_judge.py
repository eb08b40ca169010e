"""The judge of a report card, and the card it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.server import ServerSettings
from self_rewarding_lm_pytorch.judges.base import Judge
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import JudgedPrompt
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.budgets import DEFAULT_JUDGMENT, SMALL_JUDGMENT, Budgets
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.served_judging import served_budgets, served_judge
from self_rewarding_lm_pytorch.text import Codec
from self_rewarding_lm_pytorch.text.reasoning import marks_of

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.evaluation.calibration import Scale
    from self_rewarding_lm_pytorch.evaluation.report_card import ReportCard


def card_of(
    judge: JudgeSettings,
    env: Environment,
    judged: Sequence[JudgedPrompt],
    *,
    name: str,
    num_probes: int,
    pad: str | None,
) -> ReportCard:
    """The report card of the environment's policy, or of the judge's own model, under the judge's settings.

    name: what progress calls it. The same judged data are judged with the same random numbers every time.
    """
    if judge.server is not None:
        return served_card(
            judge,
            judge.server,
            judged,
            codec=env.codec,
            reporter=env.reporter,
            seed=env.seed,
            num_probes=num_probes,
            pad=pad,
        )
    policy, codec = judge.judge_model(env, "report_card")
    budget, seed = judgment_budget(judge, judged, codec, policy.max_length), (env.seed, "report_card")
    built = judge.build(env, "report_card", budget=budget, seed=seed, num_candidates=_most_responses(judged))
    work = _Work(judged, codec, env.reporter, name, num_probes, pad, seed)
    return work.card(built, judge)


def served_card(
    judge: JudgeSettings,
    server: ServerSettings,
    judged: Sequence[JudgedPrompt],
    *,
    codec: Codec | None,
    reporter: Reporter,
    seed: int,
    num_probes: int,
    pad: str | None,
) -> ReportCard:
    """The report card of a served judge. codec: counts response tokens; None: characters are counted."""
    budget, address = served_budgets(judge, server, Budgets(0, 0)).judgment, (seed, "report_card")
    built = served_judge(
        judge,
        server,
        budget=budget,
        seed=address,
        num_candidates=_most_responses(judged),
        reasoning=marks_of(codec),
    )
    work = _Work(judged, codec, reporter, server.model, num_probes, pad, address)
    return work.card(built, judge)


def _most_responses(judged: Sequence[JudgedPrompt]) -> int:
    """To one prompt, two at least."""
    return max([2, *(len(prompt.responses) for prompt in judged)])


@dataclass(frozen=True)
class _Work:
    """What is judged for a card, and how."""

    judged: Sequence[JudgedPrompt]
    codec: Codec | None
    reporter: Reporter
    name: str
    num_probes: int
    pad: str | None
    seed: tuple[int | str, ...]

    def card(self, judge: Judge, settings: JudgeSettings) -> ReportCard:
        from self_rewarding_lm_pytorch.evaluation.report_card import report_card

        num = sum(len(prompt.responses) for prompt in self.judged) * (judge.num_votes or 1)
        with self.reporter.phase(f"report card of {self.name}", num, "votes") as phase:
            return report_card(
                judge,
                self.judged,
                self.codec,
                pairwise=settings.mode == "pairwise",
                scale=scale_of(settings),
                num_probes=self.num_probes,
                pad=self.pad,
                seed=self.seed,
                on_progress=lambda done, _: phase.advance(done),
            )


def reader_of(judge: JudgeSettings, env: Environment) -> tuple[Codec | None, int | None]:
    """The judge's codec and context; of a served judge the run's own codec, if there is one, and None."""
    if judge.server is not None:
        return env.codec, None
    policy, codec = judge.judge_model(env, "report_card")
    return codec, policy.max_length


def scale_of(judge: JudgeSettings) -> Scale | None:
    """The judge's points; None where it compares, or no range is given."""
    if judge.mode == "pairwise" or judge.score_range is None:
        return None
    return scale_between(*judge.score_range)


def scale_between(low: float, high: float) -> Scale:
    """Whole points where both ends are; ConfigError where the range is empty."""
    from self_rewarding_lm_pytorch.evaluation.calibration import Scale

    if not low < high:
        raise ConfigError(
            f"a score range must rise, and {low:g} to {high:g} does not; give the lowest point first"
        )
    return Scale(low, high, is_whole=float(low).is_integer() and float(high).is_integer())


def judgment_budget(
    judge: JudgeSettings, judged: Sequence[JudgedPrompt], codec: Codec | None, context: int | None
) -> int:
    """Tokens of a vote: as the judge says; else 256, or 64 where the longest judge prompt needs the room."""
    if judge.mode != "sampled" or judge.custom is not None:
        return 0
    if judge.max_new_tokens is not None or context is None or codec is None:
        return judge.max_new_tokens or DEFAULT_JUDGMENT
    template = judge.judge_template(context)
    texts = (template.render(p.prompt, max(p.responses, key=len)).text for p in judged)
    longest = max((len(codec.prompt_ids(text)) for text in texts), default=0)
    return DEFAULT_JUDGMENT if longest + DEFAULT_JUDGMENT <= context else SMALL_JUDGMENT

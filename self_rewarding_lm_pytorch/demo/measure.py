"""How good a demo model's answers and judgments really are, by the rubric it never sees."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.demo.plan import ANSWER_TOKENS, JUDGMENT_TOKENS, judge_settings
from self_rewarding_lm_pytorch.demo.world import World, true_score
from self_rewarding_lm_pytorch.evaluation.judge_quality import JudgeQuality, judge_quality
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.records import Candidate, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings

SAMPLES_PER_PROMPT = 4
PERFECT = 5


class Measure:
    """Measures M1, M2, ... alike: the same prompts, the same judged set, the same random numbers."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._folder = folder / "evaluation"

    def __call__(self, env: Environment, number: int) -> dict[str, Any]:
        """The row of model M`number`; its samples are kept in evaluation/."""
        name = f"M{number}"
        samples = self._answers(env)
        scores = [score for sample in samples for score in sample["true_scores"]]
        quality = self._judge(env)
        write_json(self._folder / f"{name}.json", {"model": name, "samples": samples})
        row = {
            "model": name,
            "true_score_mean": round(fmean(scores), 4),
            "true_score_perfect": round(fmean(score == PERFECT for score in scores), 4),
            "judge_spearman": _rounded(quality.spearman),
            "judge_exact": _rounded(quality.exact),
            "win_rate_vs_previous": self._win_rate(number, samples),
            "mean_response_tokens": round(fmean(sample["tokens"] for sample in samples), 3),
        }
        env.reporter.say(
            f"  {name}: true score {row['true_score_mean']:.2f} of 5, "
            f"perfect {row['true_score_perfect']:.0%}, judge Spearman {quality.spearman:.3f}"
        )
        return row

    def _answers(self, env: Environment) -> list[dict[str, Any]]:
        codec = env.needed_codec("demo")
        sampler = CandidateSampler(
            env.generator(),
            codec,
            num=SAMPLES_PER_PROMPT,
            sampling=Sampling(temperature=0.7, filter_fn=None),
            max_new_tokens=ANSWER_TOKENS,
            max_seq_len=None,
            policy_name="measured",
            seed=(env.seed, "measure"),
        )
        prompts = [Prompt(i, text, codec.prompt_ids(text)) for i, text in enumerate(self._world.test_prompts)]
        with env.reporter.phase("measuring answers", len(prompts) * SAMPLES_PER_PROMPT, "answers") as phase:
            sampled = sampler.sample(
                [(prompt, 0) for prompt in prompts], on_progress=lambda done, _: phase.advance(done)
            )
        return [
            {
                "prompt": prompt.text,
                "responses": [candidate.text for candidate in own],
                "true_scores": [true_score(prompt.text, candidate.text) for candidate in own],
                "tokens": fmean(len(candidate.ids) for candidate in own),
            }
            for prompt, own in zip(prompts, sampled, strict=True)
        ]

    def _judge(self, env: Environment) -> JudgeQuality:
        codec = env.needed_codec("demo")
        settings = JudgeSettings.model_validate(judge_settings())
        judge = settings.build(env, "demo", budget=JUDGMENT_TOKENS, seed=(env.seed, "measure"))
        shown = []
        for i, item in enumerate(self._world.judged_set):
            prompt = Prompt(i, item.prompt, codec.prompt_ids(item.prompt))
            ids = codec.response_ids(item.prompt, item.answer)
            shown.append((prompt, Candidate(i, 0, 0, ids, item.answer, "eos", 0, "people")))
        with env.reporter.phase("measuring the judge", len(shown) * judge.num_votes, "votes") as phase:
            judgments = judge.judge(shown, on_progress=lambda done, _: phase.advance(done))
        labels = [item.score for item in self._world.judged_set]
        return judge_quality([judgment.score for judgment in judgments], labels)

    def _win_rate(self, number: int, samples: list[dict[str, Any]]) -> float | None:
        """Share of comparisons with the model before, sample against sample, that this one wins."""
        before = self._folder / f"M{number - 1}.json"
        if not before.exists():
            return None
        older = json.loads(before.read_text(encoding="utf-8"))["samples"]
        outcomes = [
            1.0 if new > old else 0.5 if new == old else 0.0
            for one, other in zip(samples, older, strict=True)
            for new in one["true_scores"]
            for old in other["true_scores"]
        ]
        return round(fmean(outcomes), 4)


def _rounded(value: float) -> float | None:
    """None where it cannot be told (too few scores): JSON has no NaN."""
    return None if math.isnan(value) else round(value, 4)

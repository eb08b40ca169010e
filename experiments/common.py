"""What the experiments share: answers measured by the demo's true rubric, and curves drawn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from self_rewarding_lm_pytorch.data.files import write_text
from self_rewarding_lm_pytorch.demo.measure import PERFECT, SAMPLES_PER_PROMPT
from self_rewarding_lm_pytorch.demo.plan import ANSWER_TOKENS
from self_rewarding_lm_pytorch.demo.world import World, true_score, write_answer
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.records import Prompt
from self_rewarding_lm_pytorch.text import Codec

TOKEN_BUDGET = 65_536
GREY = "#7a7a7a"  # readable on white and on black


def measure(policy: Policy, codec: Codec, world: World, *, prompts: int | None = None) -> dict[str, float]:
    """Mean true score (0 to 5) and share of perfect answers (0 to 1) of `sampled_answers`."""
    scores = [true_score(*both) for both in sampled_answers(policy, codec, world, prompts=prompts)]
    return {"score": fmean(scores), "perfect": fmean(score == PERFECT for score in scores)}


def sampled_answers(
    policy: Policy, codec: Codec, world: World, *, prompts: int | None = None
) -> list[tuple[str, str]]:
    """(prompt, answer): 4 samples for each test prompt, T = 0.7.

    All models of a world are measured with the same random numbers. prompts: only so many of the prompts.
    """
    sampler = CandidateSampler(
        PolicyGenerator(policy, codec.eos_ids, token_budget=TOKEN_BUDGET),
        codec,
        num=SAMPLES_PER_PROMPT,
        sampling=Sampling(temperature=0.7, filter_fn=None),
        max_new_tokens=ANSWER_TOKENS,
        max_seq_len=None,
        policy_name="measured",
        seed=(world.seed, "measure"),
    )
    asked = [Prompt(i, text, codec.prompt_ids(text)) for i, text in enumerate(world.test_prompts[:prompts])]
    sampled = sampler.sample([(prompt, 0) for prompt in asked])
    return [(p.text, c.text) for p, own in zip(asked, sampled, strict=True) for c in own]


def good_answers(world: World, prompts: Iterable[str], purpose: str) -> list[dict[str, str]]:
    """An answer worth all points to each prompt."""
    random = Random(f"{world.seed}/{purpose}")
    return [{"prompt": prompt, "response": write_answer(random, prompt, quality=1.0)} for prompt in prompts]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON lines; returns the path as a plan names it."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@dataclass(frozen=True)
class Curve:
    """One line of a picture: its mean, and a thin line for each run. runs: values as long as `x`, each."""

    name: str
    colour: str
    x: Sequence[float]
    runs: Sequence[Sequence[float]]


def curves_svg(path: Path, panels: Mapping[str, Sequence[Curve]], *, xlabel: str) -> None:
    """A panel for each y label, side by side, on no background. Needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "curves",  # the same numbers give the same file
        **dict.fromkeys(coloured, GREY),
    }
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.4), squeeze=False)
        for place, (ylabel, curves) in zip(axes[0], panels.items(), strict=True):
            for curve in curves:
                for run in curve.runs:
                    place.plot(curve.x, run, color=curve.colour, linewidth=0.8, alpha=0.45)
                mean = [fmean(values) for values in zip(*curve.runs, strict=True)]
                place.plot(curve.x, mean, "o-", color=curve.colour, linewidth=2.2, label=curve.name)
            place.set_xlabel(xlabel)
            place.set_ylabel(ylabel)
            place.grid(color=GREY, alpha=0.25)
            place.spines[["top", "right"]].set_visible(False)
            place.legend(frameon=False)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        pyplot.close(figure)

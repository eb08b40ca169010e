"""Does DPO learn more from pairs of the policy as it is than from as many pairs of the policy as it was?

Online AI feedback (arXiv 2402.04792) on the demo's small world. From M1, the demo's SFT model, DPO on
equally many pairs of own answers, judged by the world's rubric: offline (`external_reward`) all of them are
sampled from M1 beforehand and trained on in one epoch, online (`online`) each step's 16 are sampled from
the policy as it then is. Updates, batch, schedule, beta, prompts and random numbers are the same. Each at the
best of three learning rates, by the mean final score over the seeds: chosen on the prompts that are shown.

A pair is counted where the rubric prefers an answer: two that are worth the same are judged in vain. That
happens the more often the better the policy is, so online has more answers judged for as many pairs; the
table says how many. About 10 minutes on one core.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import Curve, curves_svg, measure
from demo_policy import BATCH, Lab, labs, mean_and_error, options, pair_stage

from self_rewarding_lm_pytorch.data.files import write_json
from self_rewarding_lm_pytorch.demo.plan import demo_codec
from self_rewarding_lm_pytorch.demo.world import true_score
from self_rewarding_lm_pytorch.models.load import policy_for

PICTURE = Path(__file__).parents[1] / "docs" / "online_against_offline.svg"
# Found on seeds 0 to 2: around the best of offline DPO; above, online DPO runs out of answers that differ.
RATES = (1.4e-4, 2e-4, 2.8e-4)
POINTS = [0, 8, 16, 24, 32]  # updates after which is measured
KINDS = {"online": "online", "offline": "external_reward"}


def rubric(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(true_score(*both)) for both in zip(prompts, responses, strict=True)]


def one_run(lab: Lab, way: str, rate: float, points: list[int], prompts: int | None) -> dict[str, Any]:
    """Its curve, M1 first, and what was judged for it."""
    steps = points[-1]
    stage = pair_stage(lab.world, KINDS[way], rate, steps)
    stage |= {"reward": rubric, "checkpoint_every": points[1]}
    if way == "offline":
        stage["num_pairs"] = steps * BATCH
    name, model = f"{way}-{rate:g}-{steps}", lab.m1()

    def measured(model: Any) -> dict[str, float]:
        return measure(policy_for(model), demo_codec(), lab.world, prompts=prompts)

    curve = [measured(model)]
    figures = lab.trained(name, model, stage)
    curve += [measured(lab.on_the_way(name, step)) for step in points[1:]]
    judged = {"pairs": figures["num_pairs"], "answers": figures["yield"]["candidates"]}
    scores = " ".join(f"{point['score']:.3f}" for point in curve)
    print(f"{way} {rate:g}, seed {lab.world.seed}: {scores} {judged}", flush=True)
    return {"curve": curve, "judged": judged}


def experiment(
    places: list[Lab], rates: tuple[float, ...], points: list[int], prompts: int | None
) -> dict[str, Any]:
    """All numbers: for each way and rate the run of each seed, the best rates, and how the ends differ."""
    runs = {
        way: {f"{rate:g}": [one_run(lab, way, rate, points, prompts) for lab in places] for rate in rates}
        for way in KINDS
    }
    best = {way: _best(own) for way, own in runs.items()}
    online, offline = (runs[way][best[way]] for way in ("online", "offline"))
    difference = {figure: _differences(online, offline, figure) for figure in ("score", "perfect")}
    return {"updates": points, "runs": runs, "best": best, "online - offline": difference}


def _best(rates: dict[str, list[dict[str, Any]]]) -> str:
    """The rate with the highest mean final score."""
    return max(rates, key=lambda rate: fmean(_end(run, "score") for run in rates[rate]))


def _end(run: dict[str, Any], figure: str) -> float:
    end: float = run["curve"][-1][figure]
    return end


def _differences(new: list[dict[str, Any]], old: list[dict[str, Any]], figure: str) -> list[float]:
    return [_end(one, figure) - _end(other, figure) for one, other in zip(new, old, strict=True)]


def table(found: dict[str, Any]) -> str:
    """In Markdown: means over the seeds, score and share perfect, after each number of updates."""
    heads = [*(f"{updates} updates" for updates in found["updates"]), "pairs", "answers judged"]
    lines = ["| pairs | peak rate | " + " | ".join(heads) + " |", "|---|---:|" + "---:|" * len(heads)]
    for way, rates in found["runs"].items():
        for rate, runs in rates.items():
            points = zip(*(run["curve"] for run in runs), strict=True)
            cells = [
                f"{fmean(one['score'] for one in point):.3f} ({fmean(one['perfect'] for one in point):.1%})"
                for point in points
            ]
            cells += [f"{fmean(run['judged'][what] for run in runs):,.0f}" for what in ("pairs", "answers")]
            mark = " (best)" if rate == found["best"][way] else ""
            lines.append(f"| {way} | {rate}{mark} | {' | '.join(cells)} |")
    return "\n".join(lines)


def conclusion(found: dict[str, Any]) -> str:
    """How the ends differ: each way at its best rate, and both at the same."""
    runs, lines = found["runs"], []
    chosen = {f"best rates, {figure}": values for figure, values in found["online - offline"].items()}
    alike = {
        f"both {rate}, score": _differences(runs["online"][rate], runs["offline"][rate], "score")
        for rate in runs["online"]
    }
    for what, values in {**chosen, **alike}.items():
        mean, error = mean_and_error(values)
        each = ", ".join(f"{value:+.3f}" for value in values)
        lines.append(f"online - offline, {what}: {mean:+.3f} ± {error:.3f} ({each})")
    return "\n".join(lines)


def picture(found: dict[str, Any], path: Path) -> None:
    """Each way at its best rate."""
    colours = {"online": "#3d85c6", "offline": "#d9822b"}
    panels: dict[str, list[Curve]] = {}
    for label, figure, scale in (("true score (points of 5)", "score", 1), ("perfect (%)", "perfect", 100)):
        for way, rate in found["best"].items():
            runs = [[scale * point[figure] for point in run["curve"]] for run in found["runs"][way][rate]]
            panels.setdefault(label, []).append(
                Curve(f"{way}, rate {rate}", colours[way], found["updates"], runs)
            )
    curves_svg(path, panels, xlabel="optimizer updates after M1")


def main() -> None:
    parser = options("Online against offline DPO, on as many judged pairs")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="file for the curves")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    points, prompts = ([0, 2, 4], 8) if chosen.small else (POINTS, None)
    found = experiment(labs(chosen), tuple(chosen.rate or RATES), points, prompts)
    print(table(found))
    print(conclusion(found))
    if chosen.json is not None:
        write_json(chosen.json, found)
    if not chosen.small:
        picture(found, chosen.picture)


if __name__ == "__main__":
    main()

"""A run folder made into one self-contained page.

Everything on disk is optional: what is missing or cannot be read is said on the page, never an error.
Prompts, responses, judgments and the plan are hostile: they reach the page through jinja's autoescape or as
JSON in which no character can end the script element; a content security policy lets only the page's own
two scripts run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from self_rewarding_lm_pytorch.data.files import write_text
from self_rewarding_lm_pytorch.data.store import told_once
from self_rewarding_lm_pytorch.report import charts, glance, words
from self_rewarding_lm_pytorch.report.alarms import alarms_of
from self_rewarding_lm_pytorch.report.cards import cards_of
from self_rewarding_lm_pytorch.report.lengths import lengths_of
from self_rewarding_lm_pytorch.report.listing import listing, shorten
from self_rewarding_lm_pytorch.report.run_files import Run, Stage
from self_rewarding_lm_pytorch.report.spreads import spreads
from self_rewarding_lm_pytorch.report.stage_rows import (
    dicts,
    evaluation_rows,
    is_given,
    num_given,
    stage_rows,
)
from self_rewarding_lm_pytorch.report.story import story
from self_rewarding_lm_pytorch.report.visible import visible

HERE = Path(__file__).parent
PAGE_BYTES = 2_900_000  # the page stays below 3 MB
LEAST_LIST_BYTES = 400_000  # of them, for the list, however much the rest takes
PLAN_LENGTH, MOST_PROMPTS, SAMPLE_BYTES = 40_000, 60, 700_000

SCRIPTS = {
    "theme": ("page_theme.js",),  # runs before anything is drawn, so that no wrong colours flash up
    "script": ("page_data.js", "page_card.js", "page_find.js", "page_keys.js"),
}
STYLES = ("page.css", "page_glance.css", "page_list.css", "page_print.css")


def build_report(run_folder: Path) -> Path:
    """Writes `run_folder/report.html`, whole or not at all, and returns its path."""
    loader = FileSystemLoader(HERE)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=visible, trim_blocks=True
    )
    environment.filters |= {"shorten": shorten, "titled": words.title, "counts_of": glance.counts_of}
    environment.globals.update(charts=charts, words=words, glance=glance)
    template, run = environment.get_template("page.html"), Run(run_folder.resolve())
    stages = run.stages()
    shown = context(run, stages)
    without = len(template.render(shown, listing=listing([], 0)).encode())
    shown["listing"] = listing(stages, max(LEAST_LIST_BYTES, PAGE_BYTES - without))
    write_text(run_folder / "report.html", template.render(shown))
    return run_folder / "report.html"


def context(run: Run, stages: Sequence[Stage]) -> dict[str, Any]:
    """All that the template shows but the list."""
    summary, manifest, metrics = run.json("summary.json"), run.json("manifest.json"), list(run.metrics())
    rows, cards = evaluation_rows(summary, manifest), dicts(summary.get("judge"))
    told, by_stage = stage_rows(summary, manifest, stages), lengths_of(stages)
    by_judge = scores_of([stage for stage in stages if not stage.is_compared])
    compared = scores_of([stage for stage in stages if stage.is_compared])
    scores = by_judge[-1] if by_judge else {}
    samples = samples_of(run)
    truths = {each["model"]: each["scores"] for each in samples if each["scores"]}
    curves = charts.curves(metrics)
    return {
        "name": run.folder.name,
        "status": str(summary.get("status") or ""),
        "times": times_of(metrics),
        "story": story(rows, cards, told, by_stage, scores, truths),
        "tiles": tiles(rows, cards, told, by_stage, scores),
        "alarms": alarms_of(run.folder, run.text("plan.yaml")),
        "judge": cards_of(summary),
        "models": rows,
        "stages": told,
        "num_finished": sum(not row.get("is_open") for row in told),
        "curves": curves,
        "max_points": charts.points_for(curves),
        "scores": [each for scores in by_judge for each in spreads(scores, "score", "judgments")],
        "preferences": [each for named in compared for each in spreads(named, "preference", "judgments")],
        "truths": spreads(truths, "true score", "answers"),
        "lengths": by_stage,
        "length_spreads": spreads({s.stage: s.tokens for s in by_stage if s.tokens}, "tokens", "responses"),
        "samples": samples,
        "prompts": prompts_of(samples),
        "num_pairs": sum(len(stage.pairs) for stage in stages),
        "num_given": num_given(told, stages),
        "has_given": any(map(is_given, told)),
        "plan": run.text("plan.yaml")[:PLAN_LENGTH],
        "problems": run.problems,
        **parts(),
    }


def scores_of(stages: Sequence[Stage]) -> list[dict[str, list[float | None]]]:
    """The judgments' scores by stage, for each way of judging; the last stage's comes last."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for stage in stages:
        if stage.judgments:
            named = found.pop(stage.judge, {})
            given = [judgment.score for judgment in told_once(stage.candidates, stage.judgments)]
            found[stage.judge] = {**named, stage.name: given}
    return list(found.values())


def parts() -> dict[str, Any]:
    """The page's style and scripts, and what its content security policy calls them."""
    made = {name: joined(files) for name, files in {"css": STYLES, **SCRIPTS}.items()}
    return {**made, "hashes": {name: digest(text) for name, text in made.items()}}


def joined(files: Sequence[str]) -> Markup:
    return Markup("").join(Markup((HERE / name).read_text("utf-8")) for name in files)


def digest(text: str) -> str:
    """What a content security policy calls a text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def times_of(metrics: Sequence[Mapping[str, Any]]) -> list[datetime]:
    """Of the first and the last logged line."""
    times = [row["time"] for row in metrics if words.is_number(row.get("time"))]
    return [datetime.fromtimestamp(t, UTC) for t in (min(times), max(times))] if times else []


def tiles(rows: Any, cards: Any, told: Any, by_stage: Any, scores: Any) -> list[glance.Tile]:
    """The cards of the first view, as many as there is something to say."""
    made = [
        glance.quality(rows, scores),
        glance.judge(cards, rows, told),
        glance.lengths(rows, by_stage),
        glance.yields(told),
        glance.time_spent(told),
    ]
    return [tile for tile in made if tile is not None]


def samples_of(run: Run) -> list[dict[str, Any]]:
    """Of each evaluated model: its answers by prompt, each with its true score or None, and those scores."""
    files = sorted(run.folder.glob("evaluation/*.json"), key=lambda path: (len(path.name), path.name))
    return [sampled(path.stem, run.json(f"evaluation/{path.name}")) for path in files]


def sampled(name: str, evaluation: dict[str, Any]) -> dict[str, Any]:
    answers, scores = dict[str, list[Any]](), list[float]()
    for row in dicts(evaluation.get("samples")):
        truth = row.get("true_scores") or []
        answers[str(row.get("prompt"))] = list(zip_longest(row.get("responses") or [], truth))
        scores += filter(words.is_number, truth)
    return {"model": str(evaluation.get("model", name)), "answers": answers, "scores": scores}


def prompts_of(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first prompts of the samples, as many as the page has room for."""
    chosen, left = list[str](), SAMPLE_BYTES
    for prompt in list(samples[0]["answers"])[:MOST_PROMPTS] if samples else []:
        answers = [text for each in samples for text, _ in each["answers"].get(prompt, [])]
        left -= sum(min(600, len(str(text))) + 100 for text in (prompt, *answers))
        if left < 0:
            break
        chosen.append(prompt)
    return chosen

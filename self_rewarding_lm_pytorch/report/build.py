"""A run folder made into one self-contained page.

Everything on disk is optional: what is missing or cannot be read is said on the page, never an error.
Prompts, responses, judgments and the plan are hostile: they reach the page through jinja's autoescape or as
JSON in which no character can end the script element; a content security policy lets only page.js run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, count, zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from self_rewarding_lm_pytorch.data.files import write_text
from self_rewarding_lm_pytorch.data.store import Record, ShardStore, told_once
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote
from self_rewarding_lm_pytorch.report import charts
from self_rewarding_lm_pytorch.report.alarms import alarms_of
from self_rewarding_lm_pytorch.report.cards import cards_of
from self_rewarding_lm_pytorch.report.visible import visible
from self_rewarding_lm_pytorch.report.votes import distribution

HERE = Path(__file__).parent
LIST_BYTES = 2_500_000  # of the page's 3 MB; the rest is room for charts and samples
# Characters of a response and of a vote (its score always stays), tried in this order; the last for a sample.
CUTS, SPARSE = ((600, 600), (600, 300), (400, 160), (240, 90), (140, 50), (140, 0), (80, 0)), (400, 160)
UNDECIDED = "no outcome yet"


@dataclass
class Stage:
    """What a stage's folder holds; `skipped` as in skipped.json's visits."""

    name: str
    candidates: list[Candidate]
    judgments: list[Judgment]
    pairs: list[PreferencePair]
    skipped: list[dict[str, Any]]


@dataclass
class Visit:
    """A row of the list: a prompt, its candidates, and what became of them."""

    stage: int
    place: tuple[int, int]  # prompt index, visit
    prompt: str
    outcome: str  # "pair", a reason, or UNDECIDED
    cards: list[tuple[str, int, Judgment | None]]  # text, role (1 chosen, 2 rejected, +4 cut off), judgment


@dataclass
class Run:
    """The files of a run, and which of them could not be read."""

    folder: Path
    problems: list[str] = field(default_factory=list)

    def json(self, path: str) -> dict[str, Any]:
        """The object in a file; empty where the file is missing or broken."""
        try:
            # NaN (the correlation of a constant) is as absent as null.
            value = json.loads((self.folder / path).read_text("utf-8"), parse_constant=lambda _: None)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.problems.append(f"{path} could not be read: {error}")
            return {}
        return value if isinstance(value, dict) else {}

    def text(self, path: str) -> str:
        file = self.folder / path
        return file.read_text("utf-8", errors="replace") if file.is_file() else ""

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The logged lines; a killed run may leave half of one."""
        for line in self.text("metrics.jsonl").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "stage" in row and charts.is_number(row.get("step")):
                yield row

    def stage(self, folder: Path) -> Stage:
        skipped = self.json(f"stages/{folder.name}/skipped.json").get("visits", [])
        candidates, judgments = self._records(folder, Candidate), self._records(folder, Judgment)
        return Stage(folder.name, candidates, judgments, self._records(folder, PreferencePair), skipped)

    def _records(self, folder: Path, kind: type[Record]) -> list[Record]:
        store, records = ShardStore(folder), list[Record]()
        for shard in range(store.num_shards(kind)):
            try:
                records += store.read(kind, shard)
            except (OSError, CheckpointError) as error:
                path = store.path(kind, shard).relative_to(self.folder)
                self.problems.append(f"{path} could not be read: {error}")
        return records


def build_report(run_folder: Path) -> Path:
    """Writes `run_folder/report.html`, whole or not at all, and returns its path."""
    loader = FileSystemLoader(HERE)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=visible)
    environment.filters["shorten"] = shorten
    environment.globals["charts"] = charts
    page = environment.get_template("page.html").render(context(Run(run_folder.resolve())))
    write_text(run_folder / "report.html", page)
    return run_folder / "report.html"


def context(run: Run) -> dict[str, Any]:
    """All that the template shows."""
    summary, metrics = run.json("summary.json"), list(run.metrics())
    stages = [run.stage(path) for path in sorted(run.folder.glob("stages/*")) if path.is_dir()]
    done = [row for row in summary.get("stages") or [] if isinstance(row, dict)]
    names = {row.get("name") for row in done}
    # A folder is called NN-NAME, and a summary may say either.
    missing = [
        {"name": stage.name, "kind": "not finished", "num_pairs": len(stage.pairs)}
        for stage in stages
        if not names & {stage.name, stage.name.partition("-")[2]}
    ]
    times = [row["time"] for row in metrics if charts.is_number(row.get("time"))]
    parts = {name: Markup((HERE / f"page.{name}").read_text("utf-8")) for name in ("css", "js")}
    files = sorted(run.folder.glob("evaluation/*.json"), key=lambda path: (len(path.name), path.name))
    return {
        "name": run.folder.name,
        "status": str(summary.get("status") or ""),
        "times": [datetime.fromtimestamp(t, UTC) for t in (min(times), max(times))] if times else [],
        "alarms": alarms_of(run.folder, run.text("plan.yaml")),
        "judge": cards_of(summary),
        "models": [row for row in summary.get("evaluation") or [] if isinstance(row, dict)],
        "stages": [*done, *missing],
        "curves": charts.curves(metrics),
        "scores": {
            s.name: [j.score for j in told_once(s.candidates, s.judgments)] for s in stages if s.judgments
        },
        "samples": [sampled(path.stem, run.json(f"evaluation/{path.name}")) for path in files],
        "num_pairs": sum(len(stage.pairs) for stage in stages),
        "listing": listing(stages),
        "plan": run.text("plan.yaml")[:40_000],
        "problems": run.problems,
        **parts,
        "hashes": {name: digest(part) for name, part in parts.items()},
    }


def digest(text: str) -> str:
    """What a content security policy calls a text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def sampled(name: str, evaluation: dict[str, Any]) -> dict[str, Any]:
    """A model's answers by prompt, each with its true score (or None), and all those scores."""
    answers, scores = dict[str, list[Any]](), list[float]()
    for row in evaluation.get("samples") or []:
        truth = row.get("true_scores") or []
        answers[str(row["prompt"])] = list(zip_longest(row["responses"], truth))
        scores += filter(charts.is_number, truth)
    return {"model": str(evaluation.get("model", name)), "answers": answers, "scores": scores}


def shorten(text: str, limit: int) -> str:
    """Head and tail (a judge's score comes last) where a text is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail]} […{len(text) - limit:,} more…] {text[len(text) - tail :]}"


def visits_of(number: int, stage: Stage) -> Iterator[Visit]:
    """A stage's visits in the order of its prompts."""
    pairs = {(pair.prompt_index, pair.visit): pair for pair in stage.pairs}
    skipped = {(row["prompt_index"], row["visit"]): row for row in stage.skipped}
    judged = {((j.prompt_index, j.visit), j.candidate_index): j for j in stage.judgments}
    asked = {index: str(row["prompt"]) for (index, _), row in skipped.items() if row.get("prompt")}
    asked |= {pair.prompt_index: pair.prompt for pair in stage.pairs}
    sampled: dict[tuple[int, int], list[Candidate]] = {place: [] for place in [*pairs, *skipped]}
    for candidate in stage.candidates:
        sampled.setdefault((candidate.prompt_index, candidate.visit), []).append(candidate)
    for place, candidates in sorted(sampled.items()):
        pair = pairs.get(place)
        cards: list[tuple[str, int, Judgment | None]] = []
        if pair:  # what was given, not sampled, is no candidate
            given = ((1, pair.chosen_index, pair.chosen), (2, pair.rejected_index, pair.rejected))
            cards = [(text, role, None) for role, index, text in given if index < 0]
        roles = {pair.chosen_index: 1, pair.rejected_index: 2} if pair else {}
        for c in sorted(candidates, key=lambda c: c.index):
            role = roles.get(c.index, 0) + 4 * (c.finish_reason == "length")
            cards.append((c.text, role, judged.get((place, c.index))))
        outcome = "pair" if pair else str(skipped.get(place, {}).get("reason", UNDECIDED))
        yield Visit(number, place, asked.get(place[0], ""), outcome, cards)


def listing(stages: Sequence[Stage]) -> dict[str, Any]:
    """The list's JSON with the longest texts that fit; a page too large even so shows every n-th visit."""
    visits = [visit for number, stage in enumerate(stages) for visit in visits_of(number, stage)]
    for cut, stride in chain(((cut, 1) for cut in CUTS), ((SPARSE, n) for n in count(2))):
        data = encode([stage.name for stage in stages], visits[::stride], *cut)
        if len(data.encode()) <= LIST_BYTES or stride > len(visits):
            break
    return {"data": data, "shown": len(visits[::stride]), "visits": len(visits), "cut": cut}


def encode(stages: Sequence[str], visits: Sequence[Visit], response_limit: int, vote_limit: int) -> Markup:
    """Visits as JSON for page.js: every text once, in a table; short lists instead of names.

    visit: [stage, prompt text, outcome, prompt index, visit, candidates]; candidate: [text, role, score,
    votes, reason text]; vote: [text, score] or, where not parsed, [text, score, status[0], reason text].
    """
    texts, outcomes = dict[str, int](), dict[str, int]()

    def place(text: str, limit: int = 200) -> int:
        return texts.setdefault(visible(shorten(text, limit)), len(texts))

    def vote(v: Vote) -> list[Any]:
        row = [place(v.text or distribution(v), vote_limit), score(v.score)]
        return row if v.status == "parsed" else [*row, v.status[0], place(v.reason)]

    def candidate(text: str, role: int, judgment: Judgment | None) -> list[Any]:
        j, row = judgment, [place(text, response_limit), role]
        return [*row, score(j.score), [vote(v) for v in j.votes], place(j.reason)] if j else row

    rows = []
    for visit in visits:
        outcome = outcomes.setdefault(visible(visit.outcome), len(outcomes))
        cards = [candidate(*card) for card in visit.cards]
        rows.append([visit.stage, place(visit.prompt, response_limit), outcome, *visit.place, cards])
    names = list(map(visible, stages))
    value = {"stages": names, "outcomes": list(outcomes), "texts": list(texts), "visits": rows}
    shown = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", shown))


def score(value: float | None) -> float | None:
    """As short as it can be written without a visible loss; JSON has no NaN."""
    if value is None or not charts.is_number(value):
        return None
    return int(value) if value == int(value) else round(value, 3)

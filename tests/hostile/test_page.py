"""The report's page, from a run whose every text is hostile: nothing becomes an element, nothing runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data import files
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote
from self_rewarding_lm_pytorch.report import build_report
from tests.hostile.texts import FRAGMENTS

TEXTS = [text.encode(errors="replace").decode() for text in FRAGMENTS]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Skeleton(HTMLParser):
    """Elements and attributes' names, without any text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.links: set[str | None] = set()
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.links |= {value for name, value in attrs if name in ("href", "src", "action", "style")}

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", ()))

    def unknown_decl(self, data: str) -> None:
        self.elements.append(("declaration", ()))


def write_run(folder: Path, texts: list[str]) -> Path:
    """Prompts, responses, votes, reasons, names and the plan: each text stands everywhere."""
    name = "01-own"
    store, everything = ShardStore(folder / "stages" / name), list(enumerate(texts))
    pairs = [PreferencePair(i, 0, t, t, f"no {t}", (1,), (2,), (3,), 0, 1, 4.0, 1.0) for i, t in everything]
    store.write(PreferencePair, 0, pairs, {})
    store.write(Candidate, 0, [Candidate(i, 0, 0, (1,), t, "eos", 1, t) for i, t in everything], {})
    votes = [(Vote(0, t, 4.0, "parsed"), Vote(1, t, None, "unparsed", t)) for t in texts]
    store.write(Judgment, 0, [Judgment(i, 0, 0, 4.0, votes[i], texts[i]) for i, _ in everything], {})
    visits = [{"prompt_index": 900 + i, "visit": 0, "reason": t, "prompt": t} for i, t in everything]
    files.write_json(folder / "stages" / name / "skipped.json", {"counts": {}, "visits": visits})
    counts = {"prompts": 1, "visits": 9, "votes": 2, "pairs": 1, "skipped": {f"n {t}": 1 for t in texts}}
    stages = [
        {"name": f"s {t}", "kind": t, "num_pairs": 1, "yield": counts, "train_seconds": 1.0}
        for t in texts[:4]
    ]
    rows = [{"model": f"m {t}", "judge_exact": 0.5, "wins": t, "true_score_mean": 1.0} for t in texts]
    judge = [{"model": t, "pairwise_accuracy": 0.5 + i / 999} for i, t in everything]
    summary = {"schema": 1, "status": texts[0], "stages": stages, "evaluation": rows, "judge": judge}
    files.write_json(folder / "summary.json", summary)
    for i, text in everything[:6]:
        answers = [{"prompt": t, "responses": [t], "true_scores": [1]} for t in texts]
        files.write_json(folder / "evaluation" / f"M{i}.json", {"model": text, "samples": answers})
    lines = [{"stage": f"s {t}", "step": n, f"k {t}": 1.0, "loss": 1.0} for t in texts[:6] for n in (1, 2)]
    files.write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    files.write_text(folder / "plan.yaml", "\n".join(texts))
    return build_report(folder)


def rotated(texts: list[str], by: int) -> list[str]:
    """Every text takes every place once in a while."""
    return texts[by:] + texts[:by]


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Skeleton:
    words = [f"word{number}" for number in range(len(TEXTS))]
    return Skeleton(write_run(tmp_path_factory.mktemp("run") / "run", words).read_text("utf-8"))


@pytest.mark.parametrize("by", range(0, len(TEXTS), 24))
def test_hostile_text_makes_no_element_and_no_attribute(harmless: Skeleton, tmp_path: Path, by: int) -> None:
    """The page has the elements that it has for harmless words."""
    source = write_run(tmp_path / "run", rotated(TEXTS, by)).read_text("utf-8")
    found = Skeleton(source)
    assert found.elements == harmless.elements
    assert found.links == harmless.links


@pytest.mark.parametrize("hidden", ["\ud800", "\x1b", "\u202e", "\u061c", "\u200f", "\u2060"])
def test_what_cannot_be_seen_is_written_out_in_pictures_and_lists_too(hidden: str, tmp_path: Path) -> None:
    """A lone surrogate would besides be no UTF-8, and the page could not be written at all."""
    name = f"m{hidden}l"
    rows = [{"model": f"{name} {i}", "judge_exact": 0.5, "true_score_mean": 1.0} for i in range(2)]
    run = {"schema": 1, "stages": [{"name": name, "kind": name}], "evaluation": rows}
    skipped = {"visits": [{"prompt_index": 0, "visit": 0, "reason": name, "prompt": name}]}
    (tmp_path / "stages" / "01-own").mkdir(parents=True)
    (tmp_path / "summary.json").write_text(json.dumps(run))
    (tmp_path / "stages" / "01-own" / "skipped.json").write_text(json.dumps(skipped))
    logged = [{"stage": name, "step": step, "loss": 1.0, name: 2.0} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    page = build_report(tmp_path).read_text("utf-8")
    assert hidden not in page
    assert page.count(f"m⟨U+{ord(hidden):04X}⟩l") > 6


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_in_a_browser_nothing_runs_and_everything_is_shown(tmp_path: Path) -> None:
    page = write_run(tmp_path / "run", TEXTS)
    shown = dumped(page, tmp_path)
    assert "owned</title>" not in shown and "– self-rewarding run</title>" in shown
    assert '<ol id="list"><li>' in shown, "the page's own script runs and made the list"
    assert re.search(r'id="count"[^>]*>\d+ visits<', shown)
    found = Skeleton(shown).elements  # as the browser has them once the list is made
    assert not {tag for tag, _ in found} & {"img", "iframe", "base", "object", "embed"}
    assert not [name for _, names in found for name in names if name.startswith("on")]
    assert sum(tag == "script" for tag, _ in found) == 3 and sum(tag == "style" for tag, _ in found) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_the_browser_would_show_that_a_script_ran(tmp_path: Path) -> None:
    """The premise: the same script in a page without our care changes the title."""
    page = tmp_path / "bad.html"
    page.write_text("<title>x</title>" + next(text for text in TEXTS if "<script>" in text), "utf-8")
    assert "<title>owned</title>" in dumped(page, tmp_path)


def dumped(page: Path, folder: Path) -> str:
    """The page's elements after its scripts have run."""
    assert CHROMIUM is not None
    options: list[Any] = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    command = [CHROMIUM, *options, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    if done.returncode != 0 or not done.stdout:
        pytest.skip(f"chromium cannot run here: {done.stderr.decode(errors='replace')[-200:]}")
    return done.stdout.decode(errors="replace")

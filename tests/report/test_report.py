"""The page as a reader meets it: what it says, that hostile text stays text, that it stays small."""

import base64
import hashlib
import json
import random
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data import files
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote
from self_rewarding_lm_pytorch.report import build, build_report, charts, words
from self_rewarding_lm_pytorch.report.listing import CUTS, listing, shorten
from self_rewarding_lm_pytorch.report.run_files import Run
from self_rewarding_lm_pytorch.report.spreads import Bins, spreads
from self_rewarding_lm_pytorch.report.visible import visible

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<!--<script>alert(3)",
    "safe \u202etxt.exe\u202c \u2028 &lt;b&gt; '\" {{ 7*7 }} {% raw %}",
]


class Page(HTMLParser):
    """The page's elements as a browser's parser sees them, and the list's data as its script reads them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))
        self.theme, data, self.script = self.raw["script"]
        kinds = [dict(attributes)["type"] for tag, attributes in self.tags if attributes.get("id") == "data"]
        self.is_packed = kinds == ["text/plain"]
        self.data: dict[str, Any] = json.loads(
            zlib.decompress(base64.b64decode(data)) if self.is_packed else data
        )

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.raw.get(self._open, self.words).append(data)


def vote(index: int, text: str, score: float | None, status: Any = "parsed", reason: str = "") -> Vote:
    return Vote(index, text, score, status, reason)


SCORES = (1.0, 4.0, 5.0)


def write_stage(
    folder: Path,
    prompts: list[str],
    tie_at: int,
    scores: tuple[float, ...] = SCORES,
    more: Callable[[], str] = str,
) -> None:
    """Three candidates or more a prompt, three votes each, one of them forced; the visit at `tie_at` is
    skipped. more: what else each answer and each vote says."""
    candidates, judgments, pairs = list[Candidate](), list[Judgment](), list[PreferencePair]()
    for place, prompt in enumerate(prompts):
        for index, points in enumerate(scores):
            text = f"answer {index} to {prompt}{more()}"
            votes = (
                vote(0, f"good{more()} Score: {points:g}", points),
                vote(1, f"{prompt} babble{more()}", None, "unparsed", "no score found"),
                vote(1, f"babble{more()} Score: 3", 3.0, "forced"),
            )
            finish: Any = "length" if index == 0 else "eos"
            candidates.append(Candidate(place, 0, index, (4, 1), text, finish, 1, "01-sft"))
            judgments.append(Judgment(place, 0, index, (points + 3) / 2, votes))
        if place != tie_at:
            chosen, rejected = f"answer 2 to {prompt}", f"answer 0 to {prompt}"
            pairs.append(PreferencePair(place, 0, prompt, chosen, rejected, (1,), (2,), (3,), 2, 0, 4.0, 2.0))
    store, half = ShardStore(folder), len(candidates) // 2
    for shard, part in enumerate((slice(None, half), slice(half, None))):
        store.write(Candidate, shard, candidates[part], {})
        store.write(Judgment, shard, judgments[part], {})
    store.write(PreferencePair, 0, pairs, {})
    skipped = {"prompt_index": tie_at, "visit": 0, "reason": "tie", "prompt": prompts[tie_at]}
    files.write_json(folder / "skipped.json", {"counts": {"tie": 1}, "visits": [skipped]})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two preference stages with hostile prompts, metrics, three evaluated models."""
    folder = tmp_path / "runs" / "tiny"
    prompts = ["use red fox river:", *HOSTILE, "use old tree stone:"]
    for name in ("02-first", "03-second"):
        write_stage(folder / "stages" / name, prompts, tie_at=5)
    rates = {"true_score_mean": 3.11, "true_score_perfect": 0.07, "win_rate_vs_previous": None}
    rows = [
        {"model": f"M{n}", **rates, "zeal_share": n / 8, "judge_spearman": float("nan")} for n in (1, 2, 3)
    ]
    counts = {"prompts": 6, "visits": 6, "candidates": 18, "votes": 36, "votes_parsed": 18}
    counts |= {"votes_forced": 18, "votes_unparsed": 18, "pairs": 5, "skipped": {"tie": 1}}
    times = {"generate_seconds": 4.2, "judge_seconds": 75, "train_seconds": 8.0}
    stage = {"name": "02-first", "kind": "self_reward", "num_pairs": 5, "yield": counts, **times}
    files.write_json(
        folder / "summary.json",
        {"schema": 1, "status": "completed", "stages": [stage], "evaluation": rows},
    )
    for model in ("M1", "M2", "M10"):
        answers = [{"prompt": p, "responses": [f"{model} says {p}"], "true_scores": [4]} for p in HOSTILE * 4]
        answers += [{"prompt": f"p{n}", "responses": ["yes"], "true_scores": [2]} for n in range(20)]
        files.write_json(folder / "evaluation" / f"{model}.json", {"model": model, "samples": answers})
    lines = [
        {"stage": "02-first", "step": n, "num_steps": 3, "time": 1_700_000_000 + n, "loss": 1 / n, "nll": n}
        for n in (1, 2, 3)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "02-fi'
    files.write_text(folder / "metrics.jsonl", text)
    files.write_text(folder / "plan.yaml", f"model: demo\nnote: '{HOSTILE[0]}'\n")
    return folder


def visits(page: Page) -> Iterator[dict[str, Any]]:
    """The list's rows with names in place of numbers."""
    texts = page.data["texts"]
    for stage, prompt, outcome, index, visit, why, cards in page.data["visits"]:
        place = {"index": index, "visit": visit, "cards": cards, "why": texts[why]}
        names = {"stage": page.data["stages"][stage], "outcome": page.data["outcomes"][outcome]}
        yield {**place, **names, "prompt": texts[prompt]}


def test_the_page_says_what_the_run_measured(run: Path) -> None:
    page = Page(build_report(run))
    assert "tiny" in page.text and "completed" in page.text and "14 Nov 2023, 22:13" in page.text
    for shown in ("True score", "3.11", "Perfect answers", "7 %", "Zeal share", "38 %", "10 pairs stored"):
        assert shown in page.text, shown
    for shown in ("4.2 s", "1 min 15 s", "no pair: tie", "1 of 6 17 %", "scores forced after that"):
        assert shown in page.text, shown
    assert "03-second not finished" in page.text  # the summary knows 02-first alone
    assert "18 judgments, mean 3.17" in page.text
    assert "loss: loss ends at 0.33" in page.source


def test_a_stage_that_trains_several_times_has_curves_for_each_training(run: Path) -> None:
    """Step 10 of both, and steps that only one has."""
    logged = {1: [(10, 0.637), (12, 0.488)], 2: [(10, 0.723), (20, 0.397), (24, 0.374)], 10: [(6, 0.9)]}
    rows = [
        {"stage": "01-spin", "iteration": n, "step": step, "loss": loss}
        for n, points in logged.items()
        for step, loss in points
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = charts.curves(rows)
    assert list(found) == ["01-spin/iteration-1", "01-spin/iteration-2", "01-spin/iteration-10"]
    assert [named["loss"] for named in found.values()] == list(logged.values())
    source = Page(build_report(run)).source
    drawn = re.findall('<h3>(01-spin.*?)</h3>|loss: loss ends at (.*?)[<"]', source)
    assert [a or b for a, b in drawn] == [
        "01-spin/iteration-1",
        "0.49",
        "01-spin/iteration-2",
        "0.37",
        "01-spin/iteration-10",
        "0.90",
    ]


def test_models_stand_side_by_side_in_their_order(run: Path) -> None:
    page = Page(build_report(run))
    places = [page.text.index(f"{model} says") for model in ("M1", "M2", "M10")]
    assert places == sorted(places)
    assert "18 more prompts" in page.text  # 24 different ones


def test_the_list_holds_every_candidate_vote_and_outcome(run: Path) -> None:
    page = Page(build_report(run))
    rows = list(visits(page))
    assert len(rows) == 12
    assert [row["outcome"] for row in rows if row["stage"] == "03-second"] == [*["pair"] * 5, "tie"]
    assert rows[5]["prompt"] == "use old tree stone:"  # of a skipped visit, from skipped.json
    first, texts = rows[0]["cards"], page.data["texts"]
    assert [(texts[card[0]], *card[1:3], texts[card[3]], card[5]) for card in first] == [
        ("answer 0 to use red fox river:", 2 + 4, 2, "rejected: the lowest score", 2),  # cut off at its limit
        ("answer 1 to use red fox river:", 0, 2, "not picked: between the two", 3.5),
        ("answer 2 to use red fox river:", 1, 2, "chosen: the highest score", 4),
    ]
    parsed, unparsed, forced = first[2][6]
    assert (texts[parsed[0]], parsed[1:]) == ("good Score: 5", [5])
    assert (unparsed[1], unparsed[2], texts[unparsed[3]]) == (None, "u", "no score found")
    assert (texts[forced[0]], forced[1], forced[2]) == ("babble Score: 3", 3, "f")


def test_hostile_text_stays_text(run: Path) -> None:
    page = Page(build_report(run))
    types = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert types == [None, "application/json", None]
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object", "base", "b ")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert (
        "<script>alert" not in page.source and "<img" not in page.source and "{{" not in page.raw["style"][0]
    )
    assert not re.search("[<>&\u2028\u2029]", page.raw["script"][1])
    assert "\u202e" not in page.source and "safe ⟨U+202E⟩txt.exe" in page.text
    assert {visible(text) for text in HOSTILE} <= set(page.data["texts"])  # shown, and shown as written
    assert "innerHTML" not in page.source and "{{ 7*7 }}" in page.text


def test_only_the_pages_own_script_and_style_may_run(run: Path) -> None:
    page = Page(build_report(run))
    policy = next(a["content"] or "" for tag, a in page.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for text in (page.theme, page.script, page.raw["style"][0]):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_nothing_is_fetched(run: Path) -> None:
    page = Page(build_report(run))
    links = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "srcset", "action")]
    assert links and all(link and link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"url\(|@import", page.raw["style"][0])
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link and link[0] == "#"} <= set(ids)


def test_five_thousand_pairs_fit_three_megabytes(tmp_path: Path) -> None:
    """Of four candidates with three votes each, no two texts the same; every visit is there."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 10))) for _ in range(3_000)]

    def more() -> str:
        """As hard to pack as prose."""
        return " " + " ".join(draw.choices(words, k=30))

    for name in ("01-first", "02-second"):
        prompts = [" ".join(draw.choices(words, k=20)) for _ in range(2501)]
        write_stage(tmp_path / "stages" / name, prompts, 7, (1.0, 4.0, 5.0, 2.0), more)
    path = build_report(tmp_path)
    assert path.stat().st_size < 3_000_000
    page = Page(path)
    assert len(page.data["visits"]) == 5002 and page.is_packed
    assert (
        any(" more…]" in text for text in page.data["texts"])
        and "Prompts and responses longer than" in page.text
    )


def noisy_stage(folder: Path) -> None:
    """40 visits with texts of 1,300 characters that do not pack well."""
    draw = random.Random(0)

    def more() -> str:
        return bytes(draw.choices(range(97, 123), k=1_300)).decode()

    write_stage(folder, [f"use {n}" for n in range(40)], tie_at=7, more=more)


def test_texts_are_shortened_first_and_only_then_are_visits_left_out(tmp_path: Path) -> None:
    noisy_stage(tmp_path / "stages" / "01-own")
    stages = Run(tmp_path).stages()
    whole, packed, shortened, sparse = (listing(stages, most) for most in (10**7, 270_000, 80_000, 5_000))
    assert (whole["shown"], whole["cut"], whole["is_packed"]) == (40, CUTS[0], False)
    assert (packed["shown"], packed["cut"], packed["is_packed"]) == (40, CUTS[0], True)
    assert shortened["shown"] == 40 and shortened["cut"][0] < CUTS[0][0]
    assert 1 <= sparse["shown"] < 40 and sparse["visits"] == 40
    for each, most in ((packed, 270_000), (shortened, 80_000), (sparse, 5_000)):
        assert len(each["data"].encode()) <= most


def test_a_page_with_less_room_says_how_many_visits_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy_stage(tmp_path / "stages" / "01-own")
    monkeypatch.setattr(build, "PAGE_BYTES", 0)
    monkeypatch.setattr(build, "LEAST_LIST_BYTES", 5_000)
    page = Page(build_report(tmp_path))
    assert f"shows {len(page.data['visits'])} of 40 visits" in page.text


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    page = Page(build_report(tmp_path))
    for shown in (
        "no summary yet",
        "No evaluation is stored",
        "No stage has left anything",
        "No training step",
    ):
        assert shown in page.text, shown
    for shown in ("No judgments are stored", "No sample answers", "No candidates or pairs", "No plan.yaml"):
        assert shown.replace("plan.yaml", "") in page.text, shown
    assert page.data["visits"] == []


def test_what_a_run_has_not_got_is_said_once_and_not_linked_to(tmp_path: Path) -> None:
    stage = {"name": "first", "kind": "sft", "train_seconds": 2.0}
    files.write_json(tmp_path / "summary.json", {"schema": 1, "status": "completed", "stages": [stage]})
    text = build_report(tmp_path).read_text(encoding="utf-8")
    nav = text[text.index('<nav aria-label="On this page">') : text.index("</nav>")]
    assert re.findall('href="#(.*?)"', nav) == ["stages", "plan"]
    assert not {"scores", "samples", "pairs", "models"} & set(re.findall('<section id="(.*?)"', text))
    assert text.count("No judgments are stored") == 1


def test_a_visit_without_an_outcome_shows_what_was_asked(tmp_path: Path) -> None:
    """A run that was cut off between sampling and judging."""
    folder = tmp_path / "stages" / "01-own"
    store = ShardStore(folder)
    made = [Candidate(n, 0, 0, (1,), "an answer", "eos", 1, "start") for n in range(2)]
    store.write(Candidate, 0, made, {})
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
    files.write_json(folder / "items" / "prompts.json", ["Why?", turns])
    page = Page(build_report(tmp_path))
    assert [row["prompt"] for row in visits(page)] == ["Why?", "System: Be short.\n\nUser: Who?"]


def test_a_few_scores_that_lie_close_together_have_bars_that_can_be_seen() -> None:
    near = [1.0, 1.001, 1.2, 1.4, 1.9]
    bins = Bins.of(near)
    assert not bins.is_exact and bins.width > 0.03
    assert Bins.of([0.0, 1 / 3, 2 / 3, 1.0, 5.0]).is_exact


def test_an_unfinished_or_broken_run_is_shown_as_far_as_it_goes(run: Path) -> None:
    (run / "summary.json").write_text('{"status": ')
    shutil.rmtree(run / "stages" / "03-second" / "pairs")
    (run / "stages" / "02-first" / "judgments" / "00001.parquet").write_bytes(b"torn")
    page = Page(build_report(run))
    assert "summary.json could not be read" in page.text
    assert "stages/02-first/judgments/00001.parquet could not be read" in page.text
    outcomes = [row["outcome"] for row in visits(page) if row["stage"] == "03-second"]
    assert outcomes == [*["no outcome yet"] * 5, "tie"]


def test_an_expected_vote_shows_its_distribution(tmp_path: Path) -> None:
    """Scores 2 to 5: the lowest is not stored, but the mean of the distribution tells it."""
    read = Vote(0, "", 4.25, "expected", probabilities=(0.0, 0.004, 0.742, 0.254))
    store = ShardStore(tmp_path / "stages" / "01-own")
    store.write(Candidate, 0, [Candidate(0, 0, 0, (1,), "an answer", "eos", 1, "start")], {})
    store.write(Judgment, 0, [Judgment(0, 0, 0, 4.25, (read,))], {})
    page = Page(build_report(tmp_path))
    (row,) = visits(page)
    text, score, status, _ = row["cards"][0][6][0]
    assert (page.data["texts"][text], score) == ("2: 0 %, 3: 0.4 %, 4: 74 %, 5: 25 %", 4.25)
    assert f"\n  {status}: " in page.script, "the page's script knows what it is"


def test_given_pairs_are_shown_without_candidates(tmp_path: Path) -> None:
    pair = PreferencePair(0, 0, "why?", "because", "no", (1,), (2,), (3,))
    ShardStore(tmp_path / "stages" / "01-dpo").write(PreferencePair, 0, [pair], {})
    page = Page(build_report(tmp_path))
    (row,) = visits(page)
    assert [(page.data["texts"][card[0]], card[1]) for card in row["cards"]] == [("because", 1), ("no", 2)]
    assert "nothing was sampled" in row["why"]


def test_a_failed_write_leaves_the_old_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build_report(run)
    before = path.read_text("utf-8")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    (run / "plan.yaml").write_text("changed: true")
    with pytest.raises(OSError, match="disk full"):
        build_report(run)
    assert path.read_text("utf-8") == before


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    assert build_report(run).read_bytes() == build_report(run).read_bytes()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("true_score_perfect", 0.69, "69 %"),
        ("judge_exact", 0.004, "0.4 %"),
        ("win_rate_vs_previous", None, "–"),
        ("judge_spearman", 0.8449, "0.84"),
        ("learning_rate", 5e-5, "5e-05"),
        ("tokens", 123456, "123,456"),
    ],
)
def test_numbers_are_shown_as_their_column_is_read(name: str, value: Any, shown: str) -> None:
    assert words.show(name, value) == shown


@pytest.mark.parametrize(
    "values", [[0.0], [2.0, 2.0], [1e-9, 2e-9], [-1e6, 1e6], [float(n % 7) for n in range(999)]]
)
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    picture = charts.lines({"loss": list(enumerate(values))}, "loss")
    assert "nan" not in picture and picture.count("<text") < 20
    (drawn,) = spreads({"any": values}, "score", "judgments")
    assert "<rect" in drawn.picture and "nan" not in drawn.picture


def test_a_long_text_keeps_its_end() -> None:
    shown = shorten("a" * 1000 + "Score: 4", 90)
    assert len(shown) < 140 and shown.endswith("Score: 4") and "918 more" in shown
    assert shorten("Score: 4", 0).strip() == "[…8 more…]"

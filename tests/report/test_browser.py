"""The page as a reader uses it: a real browser loads it, searches, filters, opens rows by hand and by key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data import files
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote
from self_rewarding_lm_pytorch.report import build, build_report
from tests.report.browsers import chromium, opened, until
from tests.report.test_report import HOSTILE, write_stage

NUM = 60
TRANSCRIPT = "User: which river?\nAssistant: the long one.\nUser: why?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as each:
        yield each


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tiny"
    prompts = [f"use word{n} and fox{n % 3}:" for n in range(NUM - 5)]
    for name in ("02-first", "03-second"):
        write_stage(folder / "stages" / name, [*prompts, *HOSTILE, TRANSCRIPT], tie_at=3)
    counts = {"prompts": NUM, "visits": NUM, "pairs": NUM - 1, "skipped": {"tie": 1}}
    stage = {"name": "02-first", "kind": "self_reward", "yield": counts, "train_seconds": 2.0}
    rows = [{"model": f"M{n}", "true_score_perfect": n / 4, "mean_response_tokens": 9.0} for n in (1, 3)]
    summary = {"schema": 1, "status": "completed", "stages": [stage], "evaluation": rows}
    files.write_json(folder / "summary.json", summary)
    return build_report(folder)


@pytest.fixture
def view(browser: Any, page: Path) -> Iterator[Any]:
    """A fresh view; whatever a test did, the console must have stayed silent."""
    shown, said = opened(browser, page)
    yield shown
    shown.context.close()
    assert said == []


def count(view: Any) -> str:
    return str(view.inner_text("#count"))


def brightness(colour: str) -> float:
    """Of rgb(r, g, b), the mean."""
    return sum(map(int, colour[4:-1].split(","))) / 3


def search(view: Any, text: str) -> None:
    """Types it and waits until the list has taken notice."""
    view.fill("#query", text)
    until(view, f"words.join(' ') === {text.lower()!r}")


def test_the_first_view_says_what_happened(view: Any) -> None:
    assert "rose from 25 % to 75 % over one round; answers kept their length" in view.inner_text(".story")
    assert view.locator(".tile").count() == 4
    box = view.locator(".tiles").bounding_box()
    assert box["y"] + box["height"] < 800, "above the fold"
    assert count(view) == "120 visits: rows 1 to 25 of 120"


def test_words_are_searched_in_prompts_answers_and_votes_and_marked(view: Any) -> None:
    search(view, "Word7 FOX1")
    assert count(view) == "2 of 120 visits", "one page needs no word of its rows"
    assert view.locator("#list mark").first.inner_text() == "word7"
    search(view, "no such word anywhere")
    assert count(view).startswith("Nothing matches")
    view.press("#query", "Escape")
    assert count(view).startswith("120 visits")


def test_filters_by_stage_outcome_margin_and_score_and_orders(view: Any) -> None:
    view.select_option("#stage", label=f"03-second ({NUM})")
    until(view, "found.length === 60")
    view.select_option("#outcome", label="tie (2)")
    until(view, "found.length === 1")
    assert "02-first" not in view.inner_text("#list") and "tie" in view.inner_text("#list .chip")
    view.click("#unfilter")
    until(view, "found.length === 120")
    view.fill("#margin-low", "2.5")
    until(view, "found.length === 0")
    view.fill("#margin-low", "2")
    until(view, "found.length === 118")  # a tie has no margin
    view.fill("#score-low", "4.5")
    until(view, "found.length === 0")
    view.click("#unfilter")
    view.select_option("#order", "length-down")
    until(view, "found.length === 120")
    view.select_option("#order", "margin-up")
    until(view, "found.at(-1).margin === null && found[0].margin === 2")


def test_a_row_opened_by_click_shows_candidates_votes_and_why(view: Any) -> None:
    view.click("#list summary >> nth=0")
    view.wait_for_selector("#list details[open] .card")
    row = view.locator("#list details[open]")
    assert "Best against worst of 3 candidates, by mean vote. The margin is 2." in row.inner_text()
    cards = row.locator(".card")
    assert [cards.nth(n).locator(".chip").count() for n in range(3)] == [1, 1, 0]
    chosen = cards.nth(0).inner_text()
    assert "chosen" in chosen and "the highest score" in chosen and "mean 4" in chosen
    assert "score forced after an unparsed vote" in chosen and "unparsed: no score found" in chosen
    assert "cut off at its token limit" in cards.nth(1).inner_text()
    assert "not picked: between the two" in cards.nth(2).inner_text()
    assert view.url.endswith("#pair/02-first/0/0"), "so that the row can be shared"


def test_everything_goes_by_keyboard(view: Any) -> None:
    view.keyboard.press("/")
    assert view.evaluate("document.activeElement.id") == "query"
    view.keyboard.type("word7")
    until(view, "found.length === 2")
    view.keyboard.press("ArrowDown")
    view.keyboard.press("j")
    view.keyboard.press("Enter")
    assert view.locator("#list details").nth(1).get_attribute("open") is not None
    assert "03-second, prompt 7" in view.evaluate("document.activeElement.innerText")
    outline = view.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"
    view.keyboard.press("Escape")
    assert view.locator("#list details[open]").count() == 0
    view.keyboard.press("k")
    assert "02-first" in view.evaluate("document.activeElement.innerText")
    view.keyboard.press("?")
    assert view.is_visible("#keys")
    view.keyboard.press("Escape")
    assert not view.is_visible("#keys")


def test_the_keys_turn_pages_and_stop_at_the_ends(view: Any) -> None:
    view.keyboard.press("n")
    assert view.inner_text("#page") == "Page 2 of 5"
    assert "02-first, prompt 25" in view.evaluate("document.activeElement.innerText"), "the new page's first"
    view.keyboard.press("k")
    assert view.inner_text("#page") == "Page 1 of 5" and "prompt 24" in view.evaluate(
        "document.activeElement.innerText"
    )
    view.keyboard.press("p")
    assert view.inner_text("#page") == "Page 1 of 5" and view.is_disabled("#previous")


def test_a_link_opens_its_row_wherever_it_stands(browser: Any, page: Path) -> None:
    view, said = opened(browser, page, f"#pair/03-second/{NUM - 1}/0")
    row = view.locator("#list details[open]")
    assert row.count() == 1 and view.inner_text("#page") == "Page 5 of 5"
    assert row.locator(".ask").inner_text() == TRANSCRIPT, "a conversation keeps its lines"
    box = row.bounding_box()
    assert 0 <= box["y"] < 800
    search(view, "word1")
    view.evaluate("location.hash = '#pair/02-first/2/0'")
    view.wait_for_selector("#list details[open]")
    assert count(view).startswith("120 visits"), "a link clears the filters that hide its row"
    assert said == []
    view.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_until_the_reader_chooses(browser: Any, page: Path, scheme: str) -> None:
    view, said = opened(browser, page, color_scheme=scheme)
    colour = "getComputedStyle(document.body).backgroundColor"
    before, other = view.evaluate(colour), {"light": "Dark", "dark": "Light"}[scheme]
    assert view.inner_text("#theme") == other
    view.click("#theme")
    after = view.evaluate(colour)
    light, dark = (before, after) if scheme == "light" else (after, before)
    assert brightness(light) > 240 and brightness(dark) < 40
    view.reload()
    assert view.evaluate(colour) == after, "the choice is remembered"
    assert said == []
    view.context.close()


def test_without_storage_the_colours_can_still_be_chosen(browser: Any, page: Path) -> None:
    context = browser.new_context(color_scheme="light")
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }})"
    )
    view = context.new_page()
    said: list[str] = []
    view.on("pageerror", lambda error: said.append(str(error)))
    view.goto(page.as_uri())
    view.click("#theme")
    assert view.evaluate("document.documentElement.dataset.theme") == "dark" and said == []
    context.close()


def test_on_a_phone_nothing_scrolls_sideways(browser: Any, page: Path) -> None:
    view, said = opened(browser, page, "#pair/02-first/0/0", viewport={"width": 390, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("#query", "#stage", "#unfilter", "#list details[open] .card >> nth=0"):
        box = view.locator(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, name
    assert said == []
    view.context.close()


def test_hostile_text_is_inert(view: Any) -> None:
    for n in range(NUM - 5, NUM - 1):
        view.evaluate(f"location.hash = '#pair/02-first/{n}/0'")
        view.wait_for_selector(f"#list details[open] a[href='#pair/02-first/{n}/0']")
    shown = view.inner_text("#list")
    assert all(text in shown for text in HOSTILE[:3])
    assert view.locator("img, iframe").count() == 0 and view.locator("script").count() == 3
    search(view, "(.*[")  # what is searched for is no pattern
    assert count(view).startswith("Nothing matches")


def test_a_packed_list_is_read_too(
    browser: Any, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stage(tmp_path / "stages" / "01-own", [f"ask {n} {'word ' * 90}" for n in range(60)], tie_at=3)
    monkeypatch.setattr(build, "PAGE_BYTES", 0)
    monkeypatch.setattr(build, "LEAST_LIST_BYTES", 60_000)
    packed = build_report(tmp_path)
    assert 'type="text/plain" id="data"' in packed.read_text("utf-8")
    view, said = opened(browser, packed)
    search(view, "ask 17")
    assert count(view).startswith("1 of 60") and said == []
    view.context.close()


def test_it_prints_without_its_controls(view: Any) -> None:
    view.emulate_media(media="print", color_scheme="dark")
    assert not view.is_visible("#tools") and not view.is_visible("#theme")
    assert view.is_visible(".story") and view.is_visible("#list summary >> nth=0")
    assert count(view).endswith("rows 1 to 25 of 120"), "paper cannot turn the page"
    paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert brightness(paper) > 240, "dark colours waste ink"


def luminance(colour: str) -> float:
    """Of rgb(r, g, b), as the WCAG define it."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_the_search_marks_can_be_read_wherever_it_stands(browser: Any, page: Path, scheme: str) -> None:
    view, said = opened(browser, page, "#pair/02-first/7/0", color_scheme=scheme)
    view.wait_for_selector("#list details[open] .votes")
    search(view, "babble")
    view.click("#list summary >> nth=0")
    view.wait_for_selector("#list .votes mark")
    colours = "[...document.querySelectorAll('#list mark')].map((each) => getComputedStyle(each))"
    for ink, paper in view.evaluate(f"{colours}.map((style) => [style.color, style.backgroundColor])"):
        low, high = sorted((luminance(ink), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 4.5
    assert said == []
    view.context.close()


def test_scores_that_lie_close_together_are_told_apart(browser: Any, tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "stages" / "01-own")
    scores = (2.0382, 2.0359)
    store.write(Candidate, 0, [Candidate(0, 0, i, (i,), f"a{i}", "eos", i, "M") for i in range(3)], {})
    judged = [Judgment(0, 0, i, score, (Vote(0, "", score, "parsed"),)) for i, score in enumerate(scores)]
    lost = (Vote(0, "hm", None, "unparsed", "no_score"), Vote(1, "so", None, "unparsed", "no_score"))
    store.write(Judgment, 0, [*judged, Judgment(0, 0, 2, None, lost)], {})
    pair = PreferencePair(0, 0, "why?", "a0", "a1", (1,), (2,), (3,), 0, 1, *scores)
    store.write(PreferencePair, 0, [pair], {})
    view, said = opened(browser, build_report(tmp_path), "#pair/01-own/0/0")
    row = view.locator("#list details[open]")
    assert "2.038 over 2.036" in row.inner_text() and "The margin is 0.0023." in row.inner_text()
    assert [row.locator(".head b").nth(n).inner_text() for n in range(3)] == ["2.038", "2.036", "no score"]
    assert "unparsed: no score found" in row.inner_text() and "no_score" not in row.inner_text()
    view.fill("#margin-low", "0.0023")
    view.fill("#margin-high", "0.0024")
    until(view, "found.length === 1")
    view.fill("#margin-low", "0.0024")
    until(view, "found.length === 0")
    assert said == []
    view.context.close()


def test_the_table_of_alarms_breaks_no_words_and_fits_on_paper(browser: Any, tmp_path: Path) -> None:
    write_stage(tmp_path / "stages" / "05-onl", ["a", "b"], tie_at=1)
    line = {"kind": "never_ends", "stage": "05-onl", "unit": "shard", "at": 2, "text": "Too long. " * 40}
    files.write_text(tmp_path / "alarms.jsonl", json.dumps(line) + "\n")
    view, said = opened(browser, build_report(tmp_path), viewport={"width": 700, "height": 900})
    cell = "document.querySelector('.alarms .place').getClientRects().length"
    assert view.inner_text(".alarms .place") == "05-onl, shard 2" and view.evaluate(cell) == 1
    assert view.evaluate("document.querySelector('.alarms .place bdi').getClientRects().length") == 1
    view.emulate_media(media="print")
    assert view.evaluate("document.documentElement.scrollWidth") <= 700
    assert said == []
    view.context.close()

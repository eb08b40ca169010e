"""The card of a checkpoint: true, complete where it can be, and inert whatever it quotes."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.model_card import card_text
from self_rewarding_lm_pytorch.model_card.markdown import cell, code, plain, public, table
from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import byte_codec
from tests.stages.worlds import QUIET, hugging_face, plan
from tests.test_resume import Deadly, in_a_fork, needs_fork

JUDGED = [{"prompt": "q?", "response": text, "score": n} for n, text in enumerate(("a", "bb", "c"), 1)]
CARD = {"data": JUDGED, "judge": {"template": "p {{ prompt }} r {{ response }}", "mode": "expected"}}


def planned(folder: Path, *names: str, **changes: Any) -> dict[str, Any]:
    return plan(folder, *names, model=hugging_face(), tokenizer=byte_codec(), **changes)


def card(folder: Path, stage: str) -> str:
    return (folder / "stages" / stage / "checkpoint" / "README.md").read_text(encoding="utf-8")


def front_matter(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def value_of(text: str, name: str) -> str:
    """Of a table's row."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return row.split("|")[2].strip()


def test_a_card_says_what_made_the_checkpoint_and_what_it_is_worth(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    summary = run(
        planned(folder, "seed", "own", report_card=CARD),
        reporter=QUIET,
        evaluate=lambda env, number: {"model": f"M{number}", "win_rate": 0.25 * number},
    )
    text, manifest = card(folder, "02-own"), json.loads((folder / "manifest.json").read_text())
    head = front_matter(text)
    assert head["library_name"] == "transformers" and head["pipeline_tag"] == "text-generation"
    assert head["tags"] == ["self-rewarding-lm", "sft", "self-reward"]
    assert "base_model" not in head and "license" not in head, "it is known by no name"
    assert "stage 2 of 2, own (self&#95;reward)" in text and "| 1 | seed | sft |" in text
    own = summary["stages"][1]
    assert value_of(text, "pairs") == str(own["num_pairs"])
    assert value_of(text, "yield: candidates") == str(own["yield"]["candidates"])
    assert float(value_of(text, "last loss")) == pytest.approx(own["metrics"]["loss"], rel=1e-5)
    assert value_of(text, "win&#95;rate") == "0.5" and "win&#95;rate | 0.25" in card(folder, "01-seed")
    assert all(f"| {name} | 1 | 3 |" in text for name in ("start", "seed", "own")), (
        "report cards of each model"
    )
    assert "| own | 1 | 3 |" not in card(folder, "01-seed"), "a stage's card knows nothing of later ones"
    assert "Effective batch: 2 items in each optimizer step, over 1 process." in text
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["stages"][0]["num_pairs"] == 5
    assert value_of(text, "torch") == plain(manifest["versions"]["torch"]) and value_of(text, "seed") != ""
    assert "2401.10020" in text and "2305.18290" in text and "2401.10020" not in card(folder, "01-seed")


def test_the_card_is_no_part_of_what_is_checked_and_the_folder_still_loads(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(planned(folder, "seed"), reporter=QUIET)
    checkpoint = folder / "stages" / "01-seed" / "checkpoint"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "README.md" not in manifest["stages"][0]["files"]
    (checkpoint / "README.md").write_text("mine")
    more = planned(folder, "seed", "given")
    assert run(more, reporter=QUIET, allow_changed=True)["status"] == "completed", (
        "its checkpoint is accepted"
    )
    assert transformers.AutoModelForCausalLM.from_pretrained(checkpoint).config.vocab_size == 256
    assert card(folder, "01-seed") == "mine", "a stage that is done keeps what its user wrote"


@needs_fork
def test_a_kill_around_the_card_is_harmless(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    class Cut(Deadly):
        pass

    def killed() -> None:
        from self_rewarding_lm_pytorch.model_card import card as module

        def half(path: Path, text: str) -> None:
            path.with_name(f".{path.name}.tmp").write_text(text[:100])
            Cut("", 1)._counted()

        module.write_text = half
        run(planned(folder, "seed", "given"), reporter=QUIET)

    assert in_a_fork(killed)
    run(planned(folder, "seed", "given"), reporter=QUIET)
    assert card(folder, "01-seed").endswith("\n") and "given" in card(folder, "02-given")


def test_models_that_are_no_hugging_face_folders_get_none(tmp_path: Path) -> None:
    run(plan(tmp_path / "run", "seed"), reporter=QUIET)
    assert not list((tmp_path / "run").rglob("README.md"))


def test_hub_names_of_model_and_data_are_told_and_local_places_are_not(tmp_path: Path) -> None:
    manifest = {
        "stages": [{"name": "a", "kind": "dpo", "outcome": {}}],
        "models": {"Qwen/Qwen2.5-0.5B-Instruct": {"commit": "abc"}, "/home/jane/judge": {"files": {}}},
        "data": {"hub:org/set#split=train": "1f", "/home/jane/private/pairs.jsonl": "2e"},
        "seed": 3,
    }
    resolved = {
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "adapter": {"r": 8},
        "stages": [
            {"name": "a", "data": "/home/jane/private/pairs.jsonl", "other": "C:\\Users\\jane\\x.jsonl"}
        ],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(resolved))
    text = card_text(tmp_path, manifest, 1, None)
    head = front_matter(text)
    assert head["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct" and head["datasets"] == ["org/set"]
    assert head["library_name"] == "peft" and "2106.09685" in text
    assert "jane" not in text and "private" not in text and "pairs.jsonl" in text and "x.jsonl" in text
    manifest["models"] = {"Qwen/Qwen2.5-0.5B-Instruct": {"files": {}}}
    assert "base_model" not in front_matter(card_text(tmp_path, manifest, 1, None)), "a folder of that name"


HOSTILE = (
    "<script>alert(1)</script> [x](javascript:1) ![y](http://z) `code` | cell\n# head\n---\n"
    "&lt; $x$ ~~a~~ *b* _c_"
)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append(tag)


def test_hostile_names_and_texts_are_text(tmp_path: Path) -> None:
    manifest = {
        "stages": [{"name": HOSTILE, "kind": HOSTILE, "outcome": {"yield": {"skipped": {HOSTILE: 3}}}}],
        "data": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "models": {HOSTILE: {"commit": HOSTILE}},
    }
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({"model": HOSTILE, "stages": [{"judge": "```\n" + HOSTILE}]})
    )
    text = card_text(tmp_path, manifest, 1, {HOSTILE: HOSTILE})
    before, fence, rest = text.partition("````yaml\n")
    assert fence, "longer than any run of backticks inside"
    shown, _, after = rest.partition("\n````\n")
    outside = before + after
    tags = Tags()
    tags.feed(outside)
    assert (
        tags.found == []
        and "<script" not in outside
        and "](javascript" not in outside
        and "![" not in outside
    )
    assert yaml.safe_load(shown)["stages"][0]["judge"].endswith(HOSTILE)
    assert front_matter(text)["tags"] == ["self-rewarding-lm"]
    assert all(
        line.count("|") == 3
        for line in outside.splitlines()
        if line.startswith("| yield") or "skipped" in line
    )


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_no_text_can_leave_its_place(text: str) -> None:
    import html

    assert html.unescape(plain(text)) == " ".join(text.split()) or "\0" in text or not text.isprintable()
    assert len(plain(text).splitlines()) <= 1 and not set(plain(text)) & set("<>`*_[]|\\!$~\"'()")
    assert "\n" not in cell(text) and "|" not in cell(text) and "<" not in cell(text).replace("<br>", "")
    assert len(table(["a"], [[text]]).split("\n")) == 3
    block = code({"a": text})
    fence = block.split("yaml\n")[0]
    assert block.count(fence) == 2, "it opens and closes once"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/jane/data.jsonl", ".../data.jsonl"),
        ("C:\\Users\\jane\\data.jsonl", ".../data.jsonl"),
        ("data/data.jsonl", "data/data.jsonl"),
        ("Qwen/Qwen2.5", "Qwen/Qwen2.5"),
        ("/", "/"),
    ],
)
def test_folders_of_absolute_paths_are_not_published(path: str, shown: str) -> None:
    assert public({path: [path, 3, None, True]}) == {shown: [shown, 3, None, True]}

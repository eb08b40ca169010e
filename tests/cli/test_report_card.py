"""`report-card JUDGE DATA` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.test_cli import Command, srlm, write_world
from tests.servers import Asked, Reply, chat, serving

__all__ = ["srlm"]  # the fixture

JUDGED = [
    {"prompt": "what of the sun?", "responses": ["it is far.", "no"], "scores": [5, 1]},
    {"prompt": "what of the sea?", "responses": ["it is wide.", "no", "so so"], "scores": [4, 0, 2]},
    {"prompt": "why?", "chosen": "because of that.", "rejected": "no"},
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "judged.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in JUDGED))
    reward = "def length(prompts, responses):\n    return [float(len(text)) for text in responses]\n"
    (tmp_path / "reward.py").write_text(reward)
    return file


def test_a_functions_card_is_printed(srlm: Command, data: Path) -> None:
    code, out, _ = srlm("report-card", "reward.py:length", str(data))
    assert code == 0
    assert "3 prompts, 3 of them with an order; 7 responses" in out
    line = next(line for line in out.splitlines() if line.startswith("pairwise accuracy, ties left out"))
    assert "100.0 %" in line and line.endswith("n = 5")


def test_json_is_the_card_and_nothing_else(srlm: Command, data: Path) -> None:
    code, out, _ = srlm("report-card", "reward.py:length", str(data), "--json", "--no-probes", "--num", "2")
    card = json.loads(out)
    assert code == 0
    assert card["num_prompts"] == 2
    assert card["metrics"]["kendall"]["value"] == 1.0
    assert "padded_shift" not in card["metrics"]


def test_a_models_card_is_printed_in_every_mode(srlm: Command, data: Path, tmp_path: Path) -> None:
    write_world(tmp_path)
    template = ["--template", "p {{ prompt }} r {{ response }}"]
    sampled = ["--votes", "2", "--unparsed", "force", "--max-new-tokens", "6"]
    code, out, _ = srlm("report-card", "tiny", str(data), *template, *sampled, "--json")
    card = json.loads(out)
    assert code == 0
    assert card["metrics"]["parse_rate"]["num"] == 14
    assert card["metrics"]["scored_share"]["value"] == 1.0
    two = ["--template", "p {{ prompt }} a {{ first }} b {{ second }}", "--num", "1"]
    for mode, asked in (("expected", [*template, "--no-probes"]), ("pairwise", two)):
        code, out, _ = srlm("report-card", "tiny", str(data), "--mode", mode, *asked, "--json")
        assert code == 0, mode
        assert ("brier" in json.loads(out)["metrics"]) == (mode == "pairwise")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reward.py:length", "judged.jsonl", "--votes", "3"], "is a function, so --votes has no effect"),
        (["reward.py:width", "judged.jsonl"], "'reward.py:width' cannot be loaded"),
        (["reward.py:length", "gone.jsonl"], "gone.jsonl"),
        (["reward.py:length", "judged.jsonl", "--score-range", "5", "0"], "a score range must rise"),
        (["tiny", "judged.jsonl", "--mode", "guess"], "the judge cannot be made as asked: mode"),
    ],
)
def test_what_is_wrong_is_said_in_words(
    srlm: Command, data: Path, arguments: list[str], message: str
) -> None:
    code, _, err = srlm("report-card", *arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


def test_train_shows_the_cards_and_a_stopped_run_has_its_page(
    srlm: Command, data: Path, tmp_path: Path
) -> None:
    write_world(tmp_path)
    plan = {
        "model": "tiny",
        "run": "runs/tiny",
        "report_card": {
            "data": "judged.jsonl",
            "judge": {
                "template": "p {{ prompt }} r {{ response }}",
                "unparsed": "force",
                "max_new_tokens": 4,
            },
            "probes": False,
            "guard": {"metric": "pairwise_accuracy", "max_fall": None, "min": 1.0, "then": "stop"},
        },
        "stages": [{"kind": "sft", "data": "seed.jsonl", "num_steps": 1, "batch_size": 2}],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    code, _, err = srlm("train", "plan.yaml", "--quiet")
    assert code == 3
    assert "below min 1" in err and "--set report_card.guard.then=warn" in err
    assert "The judge" in (tmp_path / "runs" / "tiny" / "report.html").read_text()
    code, out, _ = srlm("train", "plan.yaml", "--quiet", "--set", "report_card.guard=null")
    assert code == 0
    assert "report cards" in out and "start" in out and "completed" in out


def test_a_served_judges_card_is_printed_in_every_mode(srlm: Command, data: Path) -> None:
    def judged(asked: Asked, before: int) -> Reply:
        if "first>" in asked.text:
            return chat("A" if len(first_of(asked.text)) > 3 else "B")
        return chat("Fair enough.\nScore: " + ("1" if "\nno\n" in asked.text else "4"))

    def first_of(text: str) -> str:
        return text.partition("<first>")[2].partition("</first>")[0].strip()

    with serving(judged) as server:
        where = ["--server-url", server.url, "--server-key", "none", "--no-probes", "--json"]
        for mode in ("sampled", "pairwise"):
            code, out, _ = srlm("report-card", "m", str(data), *where, "--mode", mode)
            card = json.loads(out)["metrics"]
            assert code == 0
            assert card["pairwise_accuracy"]["value"] == 1.0
            assert card["parse_rate"]["value"] == 1.0

"""The judgments that a meta-judge compared stand on the page as answers do."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Judgment, PreferencePair
from self_rewarding_lm_pytorch.report import build_report
from self_rewarding_lm_pytorch.report.visible import visible
from tests.report.test_report import Page, visits
from tests.stages.test_meta_reward import settings
from tests.stages.worlds import QUIET

ROWS = "01-both: judge pairs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one meta-reward stage; not to be changed."""
    place = tmp_path_factory.mktemp("judged") / "run"
    run(settings(place), reporter=QUIET)
    return place


def rows(folder: Path) -> tuple[Page, list[dict[str, Any]]]:
    page = Page(build_report(folder))
    return page, [visit for visit in visits(page) if visit["stage"] == ROWS]


def test_every_judge_pair_is_listed_with_what_its_judge_was_shown(folder: Path) -> None:
    store = ShardStore(folder / "stages" / "01-both" / "judge_pairs")
    pairs = {pair.prompt_index: pair for pair in store.read_all(PreferencePair)}
    compared = {(each.prompt_index, each.candidate_index): each for each in store.read_all(Judgment)}
    page, listed = rows(folder)
    assert pairs and [row["index"] for row in listed] == sorted(pairs)
    texts = page.data["texts"]
    for row in listed:
        pair = pairs[row["index"]]
        num = sum(prompt == row["index"] for prompt, _ in compared)
        assert row["prompt"] == visible(pair.prompt)
        assert f"against the lowest of {num}, in Elo points" in row["why"] and row["outcome"] == "pair"
        cards = {card[1]: card for card in row["cards"]}
        assert len(row["cards"]) == num
        for role, text, elo, index in (
            (1, pair.chosen, pair.chosen_score, pair.chosen_index),
            (2, pair.rejected, pair.rejected_score, pair.rejected_index),
        ):
            assert texts[cards[role][0]] == text and cards[role][5] == pytest.approx(elo, abs=1e-3)
            share = 100 * float(compared[row["index"], index].score or 0)
            words = f"it gives {text[-1]}; preferred in {share:.0f} % of its {2 * (num - 1)} comparisons"
            assert texts[cards[role][3]].endswith(words)


def test_judge_pairs_whose_judgments_are_gone_are_shown_alone(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    for shard in (copy / "stages" / "01-both").glob("judgments*"):
        shutil.rmtree(shard) if shard.is_dir() else shard.unlink()
    _, listed = rows(copy)
    assert listed and all([card[1] for card in row["cards"]] in ([1, 2], [2, 1]) for row in listed)

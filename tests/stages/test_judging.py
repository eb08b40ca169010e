"""How a plan asks for a judge: stop rules, expected scores, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Phase, Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair
from self_rewarding_lm_pytorch.report import build_report
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.text import FunctionCodec
from tests.helpers import Script
from tests.stages.worlds import QUIET, STAGES, TEMPLATE, hugging_face, plan, rows, weights, without_seconds

EXPECTED = {"mode": "expected", "template": TEMPLATE}
PAIRWISE = {"mode": "pairwise", "template": "p {{ prompt }} a {{ first }} b {{ second }}"}


def judged(folder: Path, judge: dict[str, Any], **of_plan: Any) -> tuple[dict[str, Any], ShardStore]:
    """One self-reward stage; its part of the summary and its store."""
    changes = of_plan.pop("changes", {})
    settings = plan(folder, **of_plan)
    settings["stages"] = [{"name": "own", **STAGES["own"], "judge": judge, **changes}]
    summary = run(settings, reporter=QUIET)
    return summary["stages"][0], ShardStore(folder / "stages" / "01-own")


# Expected scores


def test_a_stage_runs_on_expected_scores_from_its_prompts_to_its_page(tmp_path: Path) -> None:
    stage, store = judged(tmp_path, EXPECTED)
    judgments, candidates = store.read_all(Judgment), store.read_all(Candidate)
    assert len(judgments) == len(candidates) > 0
    for judgment in judgments:
        (vote,) = judgment.votes
        assert (vote.status, vote.text, vote.score) == ("expected", "", judgment.score)
        assert sum(vote.probabilities) == pytest.approx(1)
        assert vote.score == pytest.approx(sum(n * p for n, p in enumerate(vote.probabilities)))
    counts = stage["yield"]
    assert counts["votes"] == counts["votes_parsed"] == counts["candidates"] == len(candidates)
    assert counts["votes_unparsed"] == counts["votes_forced"] == 0
    assert stage["num_pairs"] == counts["pairs"] == 5
    assert not any("tie" in reason for reason in counts["skipped"])
    assert stage["tokens_generated"] == sum(len(candidate.ids) for candidate in candidates)
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert ", 5: " in page and "expected: the mean" in page


def test_the_same_plan_gives_the_same_run_and_is_gone_on_with(tmp_path: Path) -> None:
    stages = [judged(tmp_path / name, EXPECTED)[0] for name in ("a", "b", "a")]
    first, second, again = (without_seconds({"stages": [stage]}) for stage in stages)
    assert first == second == again
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_another_model_may_read_the_scores(tmp_path: Path) -> None:
    """Script writes "Score: 2" or "Score: 4" behind byte 1, whatever it has read."""
    judge = {**EXPECTED, "template": TEMPLATE + "\x01", "model": Script(b"Score: ?", wild=b"24")}
    settings = plan(tmp_path)
    settings["stages"] = [{"name": "own", **STAGES["own"], "judge": judge}]
    with pytest.raises(DataError, match="tie"):
        run(settings, reporter=QUIET)
    for judgment in ShardStore(tmp_path / "stages" / "01-own").read_all(Judgment):
        assert judgment.score == pytest.approx(3)


def test_the_resolved_plan_shows_what_holds_and_can_be_given_again(tmp_path: Path) -> None:
    judged(tmp_path, EXPECTED)
    written = yaml.safe_load((tmp_path / "plan.yaml").read_text(encoding="utf-8"))["stages"][0]["judge"]
    assert (written["votes"], written["temperature"], written["top_p"]) == (1, 1.0, None)
    assert written["stop_at_score"] is False
    assert JudgeSettings.model_validate(written) == JudgeSettings.model_validate(EXPECTED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"votes": 3}, "votes=3"),
        (
            {"votes": 2, "unparsed": "force"},
            "unparsed='force', votes=2 would have no effect; leave those out",
        ),
        ({"temperature": 0.7}, "temperature=0.7 would have no effect; leave that out"),
        ({"top_p": 0.9}, "top_p=0.9"),
        ({"top_k": 4}, "top_k=4"),
        ({"min_p": 0.1}, "min_p=0.1"),
        ({"filter_fn": "top_k", "filter_kwargs": {"k": 2}}, "filter_fn='top_k', filter_kwargs="),
        ({"max_new_tokens": 64}, "max_new_tokens=64"),
        ({"stop": ["###"]}, "stop=\\['###'\\]"),
        ({"stop_at_score": True}, "stop_at_score=True"),
        ({"parse_reward": len}, "parse_reward=<built-in function len>"),
    ],
)
def test_what_contradicts_expected_scores_is_refused_in_words(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"mode 'expected' reads .*{said}.*mode 'sampled'"):
        JudgeSettings.model_validate({"mode": "expected", **given})


def test_a_contradiction_in_a_plan_is_an_error_before_anything_is_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judge=.*votes=3 would have no effect"):
        judged(tmp_path, {**EXPECTED, "votes": 3})
    pattern = {**EXPECTED, "score_pattern": r"Score\s*: {{ reward }}"}
    with pytest.raises(ConfigError, match="mode='expected' needs the text that stands before the score"):
        judged(tmp_path, pattern)
    with pytest.raises(ConfigError, match="holds no integer"):
        judged(tmp_path, {**EXPECTED, "score_range": (0.2, 0.8)})
    assert not (tmp_path / "stages").exists()


def test_values_that_say_what_holds_anyway_are_no_contradiction() -> None:
    said = {"votes": 1, "unparsed": "drop", "temperature": 1.0, "top_p": None, "stop_at_score": False}
    assert JudgeSettings.model_validate({"mode": "expected", **said}) == JudgeSettings(mode="expected")


def test_a_score_needs_only_its_own_room_in_the_context(tmp_path: Path) -> None:
    """Of 128 tokens the judge prompt leaves 17 taken and the score 8; a sampled judgment would take 64."""
    letters = FunctionCodec(
        lambda text: list(text.encode("latin-1", "replace")),
        lambda ids: bytes(ids.tolist()).decode("latin-1"),
        eos_id=0,
    )
    changes = {"candidates": {"num": 2, "temperature": 1.0}, "num_pairs": 1}
    small = {"model": hugging_face(), "tokenizer": letters, "changes": changes}
    _, store = judged(tmp_path, EXPECTED, **small)
    longest = max(len(candidate.ids) for candidate in store.read_all(Candidate))
    assert longest == 128 - len("p what of sun? r ") - len("Score: 5")
    assert all(judgment.votes for judgment in store.read_all(Judgment)), "every judge prompt fitted"


# Comparisons


def test_a_stage_runs_on_comparisons_and_its_pairs_agree_with_the_votes(tmp_path: Path) -> None:
    stage, store = judged(tmp_path, PAIRWISE)
    judgments = {(j.prompt_index, j.visit, j.candidate_index): j for j in store.read_all(Judgment)}
    won: dict[tuple[int, int], dict[int, float]] = {}
    for (index, visit, own), judgment in judgments.items():
        others = [number for number in range(3) if number != own for _ in range(2)]
        assert [int(vote.text[-1]) for vote in judgment.votes] == others
        for vote, other in zip(judgment.votes, others, strict=True):
            place = ["shown first", "shown second"].index(vote.text.partition(",")[0])
            (same_order,) = (
                theirs
                for theirs in judgments[index, visit, other].votes
                if int(theirs.text[-1]) == own and ("first" in theirs.text) == (place == 1)
            )
            assert vote.score == vote.probabilities[place]
            assert same_order.probabilities == vote.probabilities
            assert sum(vote.probabilities) == pytest.approx(1)
        mean = sum(vote.probabilities["second" in vote.text] for vote in judgment.votes) / 4
        assert judgment.score == pytest.approx(mean)
        won.setdefault((index, visit), {})[own] = mean
    pairs = store.read_all(PreferencePair)
    assert stage["num_pairs"] == len(pairs) == 5
    for pair in pairs:
        means = won[pair.prompt_index, pair.visit]
        assert pair.chosen_index == max(means, key=means.__getitem__)
        assert pair.rejected_index == min(means, key=means.__getitem__)
        assert pair.chosen_score == pytest.approx(means[pair.chosen_index])
        assert pair.rejected_score == pytest.approx(means[pair.rejected_index])
        assert sum(means.values()) == pytest.approx(1.5)
    counts = stage["yield"]
    assert counts["votes"] == counts["votes_parsed"] == 4 * counts["candidates"]
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "shown second, against No. " in page


def test_a_margin_in_probability_is_asked_of_comparisons(tmp_path: Path) -> None:
    _, store = judged(tmp_path / "any", PAIRWISE)
    margins = sorted(pair.margin or 0 for pair in store.read_all(PreferencePair))
    assert margins[0] < margins[-1] < 1
    changes = {"pairing": {"min_margin": margins[2]}, "num_pairs": None}
    stage, store = judged(tmp_path / "some", PAIRWISE, changes=changes)
    assert stage["yield"]["skipped"]["margin too small"] > 0
    assert all((pair.margin or 0) >= margins[2] for pair in store.read_all(PreferencePair))


class Phases(Reporter):
    """A quiet reporter that keeps the phases it was asked to show."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.kept: list[Phase] = []

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Phase]:
        with super().phase(label, total, unit) as phase:
            self.kept.append(phase)
            yield phase


def test_progress_of_comparisons_ends_where_it_said_it_would(tmp_path: Path) -> None:
    """A shard of two visits to three candidates: each has two votes for each other."""
    reporter = Phases()
    settings = plan(tmp_path)
    settings["stages"] = [{"name": "own", **STAGES["own"], "judge": PAIRWISE}]
    run(settings, reporter=reporter)
    votes = [phase for phase in reporter.kept if phase.unit == "votes"]
    assert votes[0].total == 2 * 3 * 4
    assert [phase.done for phase in votes] == [phase.total for phase in votes]


def test_a_judge_without_taste_or_another_model_gives_ties(tmp_path: Path) -> None:
    """Script answers A or B behind byte 1, whatever it has read."""
    judge = {**PAIRWISE, "template": PAIRWISE["template"] + "\x01", "model": Script(b"?", wild=b"AB")}
    with pytest.raises(DataError, match="tie"):
        judged(tmp_path, judge)
    judgments = ShardStore(tmp_path / "stages" / "01-own").read_all(Judgment)
    assert {judgment.score for judgment in judgments} == {0.5}


def test_the_template_of_comparisons_may_be_a_function_and_the_labels_ones_own(tmp_path: Path) -> None:
    """Script answers 2 to everything: each is preferred where it is shown second."""

    def template(prompt: str, first: str, second: str) -> str:
        return f"{prompt}: 1 or 2? {first} {second}\x01"

    judge = {"mode": "pairwise", "template": template, "labels": ("1", "2"), "model": Script(b"2")}
    with pytest.raises(DataError, match="tie"):
        judged(tmp_path, judge)
    for judgment in ShardStore(tmp_path / "stages" / "01-own").read_all(Judgment):
        assert [vote.score for vote in judgment.votes] == pytest.approx([0, 1] * 2, abs=1e-9)


def test_a_plan_of_comparisons_shows_what_holds_and_can_be_given_again(tmp_path: Path) -> None:
    judged(tmp_path, PAIRWISE)
    written = yaml.safe_load((tmp_path / "plan.yaml").read_text(encoding="utf-8"))["stages"][0]["judge"]
    assert (written["labels"], written["votes"], written["score_pattern"]) == (["A", "B"], 1, None)
    assert JudgeSettings.model_validate(written) == JudgeSettings.model_validate(PAIRWISE)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"votes": 3}, "votes=3 would have no effect; leave that out"),
        ({"score_pattern": "Score: {{ reward }}"}, "score_pattern='Score: {{ reward }}' would have"),
        ({"score_range": (0, 10)}, r"score_range=\(0.0, 10.0\) would have no effect"),
        ({"parse_reward": len}, "parse_reward=<built-in function len> would"),
        ({"unparsed": "force", "temperature": 0.5}, "temperature=0.5, unparsed='force' .*leave those out"),
        ({"stop": ["###"]}, r"stop=\['###'\]"),
        ({"max_new_tokens": 64}, "max_new_tokens=64"),
    ],
)
def test_what_contradicts_comparisons_is_refused_in_words(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"mode 'pairwise' reads .*{said}.*mode 'sampled'"):
        JudgeSettings.model_validate({"mode": "pairwise", **given})


@pytest.mark.parametrize("mode", ["sampled", "expected"])
def test_labels_without_a_comparison_are_refused(mode: str) -> None:
    said = (
        rf"mode '{mode}' .*labels=\('1', '2'\) would have no effect; leave that out, or take mode 'pairwise'"
    )
    with pytest.raises(ValueError, match=said):
        JudgeSettings.model_validate({"mode": mode, "labels": ("1", "2")})
    assert JudgeSettings.model_validate({"mode": mode, "labels": ("A", "B")}).labels == ("A", "B")


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (
            {"mode": "pairwise", "template": "additive"},
            "'additive' is neither a built-in of mode 'pairwise' "
            r"\(pairwise, auto\) nor a text with {{ prompt }} and {{ first }} and {{ second }}",
        ),
        (
            {"template": "pairwise"},
            r"'pairwise' is neither a built-in of mode 'sampled' \(additive, additive_small, auto\)",
        ),
        ({**PAIRWISE, "template": TEMPLATE}, r"uses the variables \['prompt', 'response'\]"),
        (
            {"mode": "pairwise", "labels": ("1", "2")},
            r"'pairwise' asks for A or B, so labels=\('1', '2'\).*leave labels out, or give a template",
        ),
        ({**PAIRWISE, "labels": ("B", "B")}, "tell the labels 'B' and 'B' apart"),
    ],
)
def test_a_comparison_that_cannot_work_is_an_error_before_anything_is_run(
    tmp_path: Path, judge: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        judged(tmp_path, judge)
    assert not (tmp_path / "stages").exists()


def test_the_built_in_template_is_the_one_of_comparisons() -> None:
    shown = JudgeSettings(mode="pairwise").judge_template(1024).render("why?", "one", "two").text
    assert "letter alone, A or B" in shown
    assert (
        shown
        == JudgeSettings(mode="pairwise", template="pairwise")
        .judge_template(None)
        .render("why?", "one", "two")
        .text
    )


def test_two_responses_and_a_label_fit_the_judges_context(tmp_path: Path) -> None:
    """Of 128 tokens the judge prompt takes 20 and the label 1: 107 for two responses of 53."""
    letters = FunctionCodec(
        lambda text: list(text.encode("latin-1", "replace")),
        lambda ids: bytes(ids.tolist()).decode("latin-1"),
        eos_id=0,
    )
    changes = {"candidates": {"num": 2, "temperature": 1.0}, "num_pairs": 1}
    _, store = judged(tmp_path, PAIRWISE, model=hugging_face(), tokenizer=letters, changes=changes)
    longest = max(len(candidate.ids) for candidate in store.read_all(Candidate))
    assert longest == (128 - len("p what of sun? a  b ") - len("A")) // 2 == 53
    for judgment in store.read_all(Judgment):
        assert [vote.status for vote in judgment.votes] == ["expected"] * 2, "every judge prompt fitted"


# Stop rules


def scripted(folder: Path, text: bytes, **settings: Any) -> tuple[dict[str, Any], list[Judgment]]:
    """A stage whose judge writes `text` behind its prompt; `?` is any digit from 0 to 5."""
    judge = {"template": TEMPLATE + "\x01", "model": Script(text), "temperature": 1.0, "top_p": None}
    stage, store = judged(folder, {**judge, "votes": 2, "max_new_tokens": 60, **settings})
    return stage, store.read_all(Judgment)


GOES_ON = b"Well.\nScore: ?\n" + b"Thank you! " * 10


def test_votes_end_with_the_line_of_their_score_unless_the_plan_says_otherwise(tmp_path: Path) -> None:
    stopped, short = scripted(tmp_path / "stopped", GOES_ON)
    whole, long = scripted(tmp_path / "whole", GOES_ON, stop_at_score=False)
    assert [j.score for j in short] == [j.score for j in long]
    assert {vote.finish_reason for j in short for vote in j.votes} == {"stop"}
    assert {vote.finish_reason for j in long for vote in j.votes} == {"length"}
    assert stopped["yield"] == whole["yield"]
    saved = stopped["yield"]["votes"] * (60 - len("Well.\nScore: 4\n"))
    assert stopped["tokens_generated"] == whole["tokens_generated"] - saved
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_votes_end_with_a_stop_string(tmp_path: Path) -> None:
    _, found = scripted(tmp_path, b"Score: ? END and more", stop=["STOP", "END"])
    assert {vote.text[8:] for j in found for vote in j.votes} == {" END"}
    assert {vote.finish_reason for j in found for vote in j.votes} == {"stop"}


def test_a_function_in_the_parsers_place_reads_the_whole_vote(tmp_path: Path) -> None:
    """Only the pattern says when a score is complete."""
    _, found = scripted(tmp_path, GOES_ON, parse_reward=lambda text: float(text[13]))
    assert {len(vote.text) for j in found for vote in j.votes} == {60}


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop"):
        JudgeSettings(stop=[""])

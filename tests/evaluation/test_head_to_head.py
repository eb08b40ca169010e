"""Two responses compared by every kind of judge, and what that comes to as a win rate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations_with_replacement
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.evaluation.answers import Answer
from self_rewarding_lm_pytorch.evaluation.head_to_head import Verdict, compare, compares, higher, verdicts
from self_rewarding_lm_pytorch.evaluation.kept import kept
from self_rewarding_lm_pytorch.evaluation.tournament import judged, pairings, result
from self_rewarding_lm_pytorch.evaluation.win_rates import win_rate
from self_rewarding_lm_pytorch.judges.function import FunctionJudge
from self_rewarding_lm_pytorch.judges.pairwise import PairwiseJudge
from self_rewarding_lm_pytorch.judges.template import PAIRWISE, JudgeTemplate
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.records import Judgment, Prompt
from tests.helpers import Table, byte_codec

PROMPTS = ["a?", "b?", "c?", "d?"]


def length(prompts: list[str], responses: list[str]) -> list[float | None]:
    """Longer is better; nothing is said of responses with an exclamation mark."""
    return [None if "!" in text else float(len(text)) for text in responses]


class Leaning:
    """Counts what a length judge is shown."""

    num_votes = 0

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self._judge = FunctionJudge(length)

    def judge(self, shown: Sequence[Any], **arguments: Any) -> Any:
        self.shown += [(prompt.text, candidate.text) for prompt, candidate in shown]
        return self._judge.judge(shown, **arguments)


def pairwise(likes: str, context: int | None = None) -> PairwiseJudge:
    """Answers A or B by the last letter it is shown: a real judge over bytes whose leaning is known.

    Its prompt ends with the second response. After `likes` it says B with probability 0.9, after anything
    else A with 0.8.
    """
    logits = torch.full((256, 256), -1e4)
    logits[:, ord("A")], logits[:, ord("B")] = torch.tensor([0.8, 0.2]).log()
    logits[ord(likes), ord("A")], logits[ord(likes), ord("B")] = torch.tensor([0.1, 0.9]).log()
    template = JudgeTemplate("{{ prompt }} {{ first }}|{{ second }}", variables=PAIRWISE)
    return PairwiseJudge(policy_for(Table(logits)), byte_codec(), template, context=context)


def test_scores_are_compared_and_equal_texts_are_not_asked_about() -> None:
    judge = Leaning()
    found = compare(judge, PROMPTS, ["long", "x", "same", "ab"], ["no", "longer", "same", "cd"])
    assert found == [1.0, 0.0, 0.5, 0.5]
    assert ("c?", "same") not in judge.shown
    assert len(judge.shown) == 6


def test_scores_within_the_margin_tie() -> None:
    judge = FunctionJudge(length)
    texts = ["abcd", "abc", "a", "abcdefg"], ["abc", "abcd", "abcd", "a"]
    assert compare(judge, PROMPTS, *texts, tie_margin=1) == [0.5, 0.5, 0.0, 1.0]


@pytest.mark.parametrize("margin", [Fraction(0), Fraction(1, 3), Fraction(1), Fraction(5, 3)])
def test_the_margin_of_a_tie_is_that_of_the_exact_means(margin: Fraction) -> None:
    """All that three votes from 0 to 5 may be; the means are thirds, which no float holds."""
    votes = list(combinations_with_replacement(range(6), 3))
    for first in votes:
        for second in votes:
            lead = Fraction(sum(first) - sum(second), 3)
            expected = 0.5 if abs(lead) <= margin else float(lead > 0)
            both = Judgment(0, 0, 0, fmean(first)), Judgment(0, 0, 1, fmean(second))
            assert higher(*both, tie_margin=float(margin)).preference == expected, (first, second)


def test_scores_that_differ_by_rounding_alone_tie() -> None:
    both = Judgment(0, 0, 0, 0.1 + 0.2), Judgment(0, 0, 1, 0.3)
    assert [higher(*order).preference for order in (both, both[::-1])] == [0.5, 0.5]


def test_a_response_without_a_score_has_no_verdict_and_the_reason_is_kept() -> None:
    found = verdicts(FunctionJudge(length), PROMPTS[:2], ["what!", "a"], ["b", "no!"])
    assert [verdict.preference for verdict in found] == [None, None]
    assert "the first response has no score: the reward is None" in found[0].reason
    assert "the second response has no score" in found[1].reason
    assert found[0].outcome is None


def test_a_judge_that_compares_sees_both_orders_and_their_mean_counts() -> None:
    """First x, second y; the judge likes y. Shown x|y it says B: 0.1 for x. Shown y|x it says A: 0.2."""
    judge = pairwise(likes="y")
    assert compares(judge)
    found = verdicts(judge, ["q"], ["x"], ["y"])[0]
    assert found.orders == pytest.approx((0.1, 0.2))
    assert found.preference == pytest.approx(0.15)
    assert found.outcome == "loss"
    swapped = verdicts(judge, ["q"], ["y"], ["x"])[0]
    assert swapped.preference == pytest.approx(0.85)
    assert swapped.outcome == "win"


def test_a_judge_that_changes_its_mind_with_the_order_has_found_a_tie() -> None:
    """It likes neither, so whoever is shown first gets 0.8."""
    found = verdicts(pairwise(likes="y"), ["q"], ["x"], ["z"])[0]
    assert found.orders == pytest.approx((0.8, 0.2))
    assert (found.preference, found.outcome) == (pytest.approx(0.5), "tie")


def test_a_comparison_that_does_not_fit_is_no_verdict() -> None:
    judge = pairwise(likes="y", context=9)
    found = verdicts(judge, ["q"], ["x" * 50], ["y"])[0]
    assert found.preference is None
    assert "is over its limit" in found.reason


def test_lists_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="2 prompts have 1 first and 2 second responses"):
        compare(FunctionJudge(length), ["a", "b"], ["x"], ["y", "z"])


def answers(*texts: str) -> list[Answer]:
    return [Answer(text, len(text.split())) for text in texts]


def test_a_win_rate_worked_by_hand() -> None:
    """Preferences 1, 0.5, 0.8, 0 and 0.55: their mean is 57 %. 0.8 of orders (0.9, 0.7) is a win; 0.55 of
    (0.9, 0.2) is a tie. One prompt has no verdict and is in no rate."""
    found = [
        Verdict(1.0),
        Verdict(0.5),
        Verdict(0.8, (0.9, 0.7)),
        Verdict(0.0),
        Verdict(0.55, (0.9, 0.2)),
        Verdict(None, reason="too long"),
    ]
    own, other = answers("a b", "c", "d", "e", "f", "g g g g"), answers("a", "c", "d", "e", "f", "g")
    row = win_rate("new", "old", found, (own, other), seed=("test",))
    assert row.win_rate.value == pytest.approx(100 * (1 + 0.5 + 0.8 + 0 + 0.55) / 5)
    assert (row.wins, row.ties, row.losses, row.num, row.unjudged) == (2, 2, 1, 5, 1)
    assert (row.higher, row.lower) == (3, 1), "AlpacaEval counts by the mean alone"
    assert row.reasons == {"too long": 1}
    assert row.first_lengths.tokens == pytest.approx((2 + 1 + 1 + 1 + 1 + 4) / 6)
    assert row.first_lengths.characters == pytest.approx((3 + 1 + 1 + 1 + 1 + 7) / 6)
    # Standard deviation of the five is 0.3768, over sqrt(5).
    assert row.standard_error == pytest.approx(100 * 0.376829 / 5**0.5, abs=1e-3)
    assert row.win_rate.low is not None and row.win_rate.high is not None
    assert row.win_rate.low < 57 < row.win_rate.high


def test_a_win_rates_interval_is_as_wide_as_the_binomials() -> None:
    found = [Verdict(1.0)] * 150 + [Verdict(0.0)] * 50
    texts = answers(*(f"{'x' * (1 + i % 7)}" for i in range(200))), answers(*("yy" for _ in range(200)))
    row = win_rate("new", "old", found, texts, seed=("test",))
    assert row.win_rate.low is not None and row.win_rate.high is not None
    width = 2 * 1.96 * 100 * (0.75 * 0.25 / 200) ** 0.5
    assert row.win_rate.high - row.win_rate.low == pytest.approx(width, rel=0.1)
    assert row == win_rate("new", "old", found, texts, seed=("test",)), "drawn by address"


def test_nothing_judged_has_no_rate() -> None:
    row = win_rate("new", "old", [Verdict(None, reason="r")], (answers("a"), answers("b")), seed=("test",))
    assert (row.win_rate.value, row.length_controlled.value, row.num, row.unjudged) == (None, None, 0, 1)
    json.dumps(row.as_dict(), allow_nan=False)


def test_each_two_meet_or_many_in_a_chain_with_the_baseline_second() -> None:
    assert pairings(["a", "b", "c"], "a") == [("b", "a"), ("c", "a"), ("c", "b")]
    assert pairings(["a", "b", "c"], "c") == [("b", "a"), ("a", "c"), ("b", "c")]
    many = [f"m{i}" for i in range(7)]
    chain = pairings(many, "m0")
    assert len(chain) == 6 + 5
    assert ("m4", "m3") in chain and ("m4", "m0") in chain and ("m4", "m2") not in chain
    assert len(pairings(many, "m0", "all")) == 21
    assert pairings(["a", "b", "c"], "a", "chain") == [("b", "a"), ("c", "a"), ("c", "b")]


def test_each_text_is_scored_once_however_many_models_wrote_it() -> None:
    prompts = [Prompt(i, text, ()) for i, text in enumerate(["p", "q"])]
    own = {"a": answers("x", "yy"), "b": answers("x", "y"), "c": answers("xxx", "y")}
    judge = Leaning()
    found = judged(judge, prompts, own, pairings(list(own), "a"))
    assert sorted(judge.shown) == [("p", "x"), ("p", "xxx"), ("q", "y"), ("q", "yy")]
    told = {pair: [verdict.preference for verdict in each] for pair, each in found.items()}
    assert told == {("b", "a"): [0.5, 0.0], ("c", "a"): [1.0, 0.0], ("c", "b"): [1.0, 0.5]}
    board = result(own, found, "b", seed=("test",))
    assert [row.name for row in board.ratings] == ["b", "a", "c"]
    assert board.ratings[0].elo.value == 1000
    json.dumps(board.as_dict(), allow_nan=False)


def test_a_tournament_of_a_judge_that_compares_asks_pair_by_pair() -> None:
    prompts = [Prompt(0, "p", ())]
    own = {"a": answers("x"), "b": answers("y")}
    found = judged(pairwise(likes="y"), prompts, own, [("b", "a")])
    assert found["b", "a"][0].preference == pytest.approx(0.85)


def test_kept_work_is_used_while_what_it_depends_on_is_the_same(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    path = tmp_path / "folder" / "kept.json"
    assert [kept(path, {"a": (1, 2)}, make), kept(path, {"a": [1, 2]}, make)] == [0, 0]
    assert kept(path, {"a": [1, 3]}, make) == 1
    path.write_text("half a fi")
    assert kept(path, {"a": [1, 3]}, make) == 2

"""Length control: a short response among the best is chosen, a long one among the worst rejected."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.preferences.length_control import LengthControl
from self_rewarding_lm_pytorch.preferences.pairing import PairingRule, best_and_worst
from self_rewarding_lm_pytorch.records import Judgment, PreferencePair, Skipped
from self_rewarding_lm_pytorch.stages.rewarded import PairingSettings
from tests.helpers import candidate, prompt

RHOS = ("0.1", "0.25", "0.32", "0.4", "0.49")


def test_a_worked_example() -> None:
    """Scores from 0 to 5, rho 0.4: chosen from 3 up (5, 3.2, 3), rejected from 2 down (0, 1, 2)."""
    scores = [5.0, 3.2, 3.0, 2.9, 0.0, 1.0, 2.0, 2.1]
    lengths = [40, 12, 15, 2, 8, 33, 33, 90]
    assert LengthControl(0.4).pick(scores, lengths) == (1, 5)
    assert LengthControl(0.0).pick(scores, lengths) == (0, 4)
    assert LengthControl(0.39).pick(scores, lengths) == (1, 5), "from 3.05 up, and 1.95 down"
    assert LengthControl(0.1).pick(scores, lengths) == (0, 4), "from 4.5 up, and 0.5 down"


def test_a_score_on_the_edge_of_a_band_is_in_it() -> None:
    """Of 1/3 and 7/3 and 13/3, rho 0.25: from 10/3 up and 4/3 down, which no float says exactly."""
    scores = [13 / 3, 10 / 3, 1 / 3, 4 / 3]
    assert LengthControl(0.25).pick(scores, [9, 1, 1, 9]) == (1, 3)


def test_a_score_on_the_edge_is_in_the_band_however_narrow_the_range_is() -> None:
    """Rho 0.1 of a range of 0.001: the edges are the second and the last score."""
    scores = [10000000.0037, 10000000.0036, 10000000.0027, 10000000.0028]
    assert LengthControl(0.1).pick(scores, [9, 1, 1, 9]) == (1, 3)


def test_of_equally_long_responses_the_score_decides_and_then_the_first() -> None:
    rule = LengthControl(0.4)
    assert rule.pick([4.0, 5.0, 5.0, 1.0, 0.0, 0.0], [7] * 6) == (1, 4)
    assert rule.pick([5.0, 5.0, 0.0, 0.0], [3, 3, 3, 3]) == (0, 2)


@st.composite
def visits(draw: st.DrawFn) -> tuple[list[Fraction | None], list[int]]:
    """Means of up to 11 votes of 0 to 5, some missing, and lengths with many ties."""
    votes = draw(st.sampled_from([1, 2, 3, 7, 11]))
    score = st.none() | st.integers(0, 5 * votes).map(lambda total: Fraction(total, votes))
    scores = draw(
        st.lists(score, min_size=2, max_size=8).filter(lambda found: any(s is not None for s in found))
    )
    return scores, draw(st.lists(st.integers(1, 6), min_size=len(scores), max_size=len(scores)))


def naive(scores: list[Fraction | None], lengths: list[int], rho: Fraction) -> tuple[int, int]:
    """The definition, in exact fractions: every candidate in a band, sorted by what decides."""
    known = [(place, score) for place, score in enumerate(scores) if score is not None]
    high, low = max(score for _, score in known), min(score for _, score in known)
    upper = [(lengths[i], -s, i) for i, s in known if (1 - rho) * high + rho * low <= s <= high]
    lower = [(-lengths[i], s, i) for i, s in known if low <= s <= (1 - rho) * low + rho * high]
    return sorted(upper)[0][2], sorted(lower)[0][2]


@given(visits(), st.sampled_from(RHOS))
def test_it_is_the_papers_definition(visit: tuple[list[Fraction | None], list[int]], rho: str) -> None:
    scores, lengths = visit
    floats = [math.nan if score is None else float(score) for score in scores]
    assert LengthControl(float(rho)).pick(floats, lengths) == naive(scores, lengths, Fraction(rho))


@given(visits())
def test_with_rho_0_it_is_best_against_worst_whatever_the_lengths(
    visit: tuple[list[Fraction | None], list[int]],
) -> None:
    scores, lengths = visit
    floats = [math.nan if score is None else float(score) for score in scores]
    assert LengthControl(0.0).pick(floats, lengths) == best_and_worst(
        torch.tensor(floats, dtype=torch.float64)
    )


@given(visits(), st.sampled_from(RHOS))
def test_a_pair_never_prefers_the_worse_and_a_tie_is_skipped(
    visit: tuple[list[Fraction | None], list[int]], rho: str
) -> None:
    scores, lengths = visit
    found = paired(scores, lengths, rho=float(rho))
    known = {score for score in scores if score is not None}
    if isinstance(found, PreferencePair):
        assert found.margin is not None and found.margin > 0
        assert found.chosen_score == float(scores[found.chosen_index] or 0)
    else:
        assert found.reason == "tie" or sum(score is not None for score in scores) < 2
        assert len(known) == 1


@pytest.mark.parametrize("scores", [(math.inf, 2.0, 1.0), (3.0, 2.0, -math.inf), (1.0, 1.0 + 1e-15, 1.0)])
def test_extreme_scores_still_give_the_best_and_the_worst(scores: tuple[float, ...]) -> None:
    chosen, rejected = LengthControl(0.4).pick(scores, [5, 5, 5])
    assert scores[chosen] == max(scores) and scores[rejected] == min(scores)


def paired(scores: Any, lengths: list[int], *, rho: float, **settings: Any) -> PreferencePair | Skipped:
    candidates = [
        candidate(7, i, "x" * length + str(i), ids=(9,) * length + (i,)) for i, length in enumerate(lengths)
    ]
    judgments = [Judgment(7, 0, i, None if s is None else float(s)) for i, s in enumerate(scores)]
    return PairingSettings(rho=rho, **settings).rule().pair(prompt(7), 0, candidates, judgments)


def test_a_stages_pairs_are_picked_by_score_and_length() -> None:
    scores, lengths = [5.0, 4.0, 0.0, 1.0], [30, 10, 10, 30]
    pairs = [paired(scores, lengths, rho=rho) for rho in (0.0, 0.4)]
    assert [(p.chosen_index, p.rejected_index, p.margin) for p in pairs if isinstance(p, PreferencePair)] == [
        (0, 2, 5.0),
        (1, 3, 3.0),
    ]


def test_the_margin_asked_for_is_that_of_the_pair_picked() -> None:
    found = paired([5.0, 4.0, 0.0, 1.0], [30, 10, 10, 30], rho=0.4, min_margin=4.0)
    assert isinstance(found, Skipped) and found.reason == "margin too small"


def test_unfinished_candidates_span_no_band() -> None:
    candidates = [
        candidate(7, i, text) for i, text in enumerate(["longest of all", "short", "a longer one", "x"])
    ]
    candidates[0] = replace(candidates[0], finish_reason="length")
    judgments = [Judgment(7, 0, i, score) for i, score in enumerate((5.0, 2.0, 1.9, 1.0))]
    found = PairingSettings(rho=0.4, unfinished="drop").rule().pair(prompt(7), 0, candidates, judgments)
    assert isinstance(found, PreferencePair)
    assert (found.chosen_index, found.rejected_index) == (1, 3), "from 1.6 up; the 5.0 has no part in it"


@pytest.mark.parametrize("rho", [0.5, 1.0, -0.1, math.nan])
def test_a_rho_at_which_the_bands_meet_is_refused(rho: float) -> None:
    with pytest.raises(ConfigError, match=r"rho is .*0 <= rho < 0\.5"):
        LengthControl(rho)
    with pytest.raises(ValidationError, match="rho"):
        PairingSettings(rho=rho)


def test_rho_beside_a_pick_function_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"pick is given too.*leave one of them out"):
        PairingSettings(rho=0.3, pick=lambda rewards: (0, 1))
    assert PairingSettings(rho=0.0, pick=lambda rewards: (0, 1)).rule().length_control is None
    assert isinstance(PairingRule().length_control, type(None))

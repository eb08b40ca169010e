"""What became of each candidate of a visit, and why, in words.

Told from what is stored: the scores, the pair, the reason of a visit without one, and the stage's settings
where the plan can be read. Nothing is decided anew, so a rule that only its own code knows is named as that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair
from self_rewarding_lm_pytorch.report.words import is_number

UNDECIDED = "no outcome yet"


@dataclass(frozen=True)
class Rule:
    """What the plan says of a stage's pairs."""

    kind: str = ""  # the stage's
    needs_end: bool = False
    rho: float = 0.0
    min_margin: float = 0.0
    is_own: bool = False  # a function of the user's picks the two
    is_anchored: bool = False  # chosen and rejected come from different models

    @staticmethod
    def of(plan: Mapping[str, Any]) -> Rule:
        """From a stage's settings; what is missing has the library's meaning of nothing said."""
        given = plan.get("pairing")
        pairing = given if isinstance(given, dict) else {}
        rho, margin = pairing.get("rho"), pairing.get("min_margin")
        return Rule(
            str(plan.get("kind") or ""),
            pairing.get("unfinished") == "drop",
            float(rho) if is_number(rho) and rho is not None else 0.0,
            float(margin) if is_number(margin) and margin is not None else 0.0,
            "best_and_worst" not in str(pairing.get("pick", "best_and_worst")),
            bool(plan.get("temporal")),
        )


def visit_words(rule: Rule, pair: PreferencePair | None, reason: str, num: int, num_votes: int) -> str:
    """Why a visit gave its pair, or none. num: candidates; num_votes: the most that one of them has."""
    if pair is None:
        return _no_pair(rule, reason)
    if pair.chosen_index < 0 and pair.rejected_index < 0:
        if rule.kind == "spin":
            return "The data set's answer against the opponent's own answer."
        return "Chosen and rejected were given with the data; nothing was sampled."
    if pair.chosen_index < 0 or pair.rejected_index < 0:
        return "A given answer against a sampled one."
    by = "mean vote" if num_votes > 1 else "score"
    if rule.is_anchored:
        return (
            f"The best of the present and future models' candidates against the past model's worst, by {by}."
        )
    if rule.is_own:
        return "The plan's own rule picked the two."
    if rule.rho:
        return (
            f"Length control: the shortest of the best against the longest of the worst of {num} candidates, "
            f"by {by}, within {rho_words(rule.rho)} of the range of scores."
        )
    return f"Best against worst of {num} candidates, by {by}."


def rho_words(rho: float) -> str:
    return f"{100 * rho:g} %"


def _no_pair(rule: Rule, reason: str) -> str:
    if reason == UNDECIDED:
        return "The run has not come to a decision here yet."
    if reason == "tie":
        return "No pair: the best and the worst usable candidate have the same score, which says nothing."
    if reason == "margin too small" and rule.min_margin:
        return f"No pair: best and worst are less than the asked margin of {rule.min_margin:g} apart."
    if reason == "equal responses":
        return "No pair: the two that were picked say exactly the same."
    if reason.startswith("fewer than two usable candidates"):
        left = "Candidates without a score" + (" or without an end" if rule.needs_end else "")
        return f"No pair: {reason}. {left} take no part."
    return f"No pair: {reason}."


def fates(
    rule: Rule, pair: PreferencePair | None, candidates: Sequence[Candidate], judged: Mapping[int, Judgment]
) -> list[str]:
    """Of each candidate in its order. judged: candidate index -> judgment."""
    out = [_barred(rule, each, judged.get(each.index)) for each in candidates]
    able = {
        each.index: float(judged[each.index].score or 0.0)
        for each, why in zip(candidates, out, strict=True)
        if not why
    }
    return [why or _told(rule, pair, each.index, able) for each, why in zip(candidates, out, strict=True)]


def _barred(rule: Rule, candidate: Candidate, judgment: Judgment | None) -> str:
    """Why a candidate could take no part; empty where it could."""
    if judgment is None:
        return "not judged"
    if judgment.score is None:
        return "took no part: it has no score"
    if rule.needs_end and candidate.finish_reason != "eos":
        return "took no part: it had not ended (unfinished: drop)"
    return ""


def _told(rule: Rule, pair: PreferencePair | None, index: int, able: Mapping[int, float]) -> str:
    """Of a candidate that could take part. able: index -> score of all that could."""
    score, others = able[index], [value for other, value in able.items() if other != index]
    if pair is None:
        return "could take part" if others else "could take part, but alone"
    is_plain = not (rule.is_own or rule.rho or rule.is_anchored)
    if index == pair.chosen_index:
        return "chosen" + (_end(index, score, able, max, "highest") if is_plain else " by the rule above")
    if index == pair.rejected_index:
        return "rejected" + (_end(index, score, able, min, "lowest") if is_plain else " by the rule above")
    high, low = able.get(pair.chosen_index), able.get(pair.rejected_index)
    if high is None or low is None:
        return "not picked"
    if score == high:
        return "not picked: as good as the chosen one" + (", which came first" if is_plain else "")
    if score == low:
        return "not picked: as low as the rejected one" + (", which came first" if is_plain else "")
    if low < score < high:
        return "not picked: between the two"
    return "not picked: passed over by the rule"


def _end(index: int, score: float, able: Mapping[int, float], end: Any, word: str) -> str:
    """Why the best or the worst is that; nothing where another has an even better claim."""
    if score != end(able.values()):
        return ""
    equal = [other for other, value in able.items() if value == score]
    if len(equal) == 1:
        return f": the {word} score"
    return f": first of {len(equal)} with the {word} score" if index == min(equal) else f": the {word} score"

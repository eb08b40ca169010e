"""What became of a stage's judgments on the way to judge pairs, in words."""

from __future__ import annotations

WORDS = {
    "judge_visits": "visits",
    "judge_undisputed": "  no response with two different scores",
    "judge_repeated": "  the same response and judgments again",
    "judge_not_needed": "  more than asked for",
    "judge_comparisons": "comparisons of judgments",
    "judge_unread": "  not read: over the context",
    "judge_pairs": "judge pairs",
    "judge_ties": "  no pair: judgments rated the same",
    "judge_unread_responses": "  no pair: no comparison was read",
    "judge_too_long": "  no pair: judgment too long",
    "judge_thinned": "  left out: too many of that score",
}


def lines(counts: dict[str, float]) -> list[str]:
    """The table in words."""
    width = max(map(len, WORDS.values()))
    told = {name: words for name, words in WORDS.items() if counts[name] or not words.startswith(" ")}
    rows = [f"{words:<{width}}  {counts[name]:>9,.0f}" for name, words in told.items()]
    if "judge_first_place_wins" in counts:
        rows.append(f"the meta-judge prefers what stands first in {counts['judge_first_place_wins']:.1%}")
    if "judge_higher_chosen" in counts:
        rows.append(f"the chosen judgment gives the higher score in {counts['judge_higher_chosen']:.1%}")
    return rows

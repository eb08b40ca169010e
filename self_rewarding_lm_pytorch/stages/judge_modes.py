"""What a judge's mode settles, so that settings which say otherwise contradict it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from self_rewarding_lm_pytorch.judges.pairwise import LABELS

ModeName = Literal["sampled", "expected", "pairwise"]

# What settings come to where nothing is sampled, nothing is compared, or no score is read.
_UNSAMPLED: dict[str, Any] = {
    "votes": 1,
    "unparsed": "drop",
    "parse_reward": None,
    "stop_at_score": False,
    "stop": [],
    "max_new_tokens": None,
    "temperature": 1.0,
    "top_p": None,
    "top_k": None,
    "min_p": None,
    "filter_fn": None,
    "filter_kwargs": {},
}
_UNCOMPARED: dict[str, Any] = {"labels": LABELS}
_UNSCORED: dict[str, Any] = {"score_pattern": None, "score_range": None}

# What no served model can be asked for: the protocol knows temperature, top_p and stop strings alone.
_UNSERVED: dict[str, Any] = {
    "unparsed": "drop",
    "stop_at_score": False,
    "top_k": None,
    "min_p": None,
    "filter_fn": None,
    "filter_kwargs": {},
}

# A judge of one's own is asked for nothing but judgments; score_range, if given, says what its points are.
_UNASKED: dict[str, Any] = {
    **_UNSAMPLED,
    **_UNCOMPARED,
    "mode": "sampled",
    "template": "auto",
    "auto_dedent": True,
    "score_pattern": "Score: {{ reward }}",
    "model": None,
    "server": None,
}


@dataclass(frozen=True)
class Mode:
    """A mode in words, and the settings that have no effect in it, with what they come to."""

    does: str
    settled: dict[str, Any]


MODES: dict[ModeName, Mode] = {
    "sampled": Mode("samples votes on one response at a time", _UNCOMPARED),
    "expected": Mode(
        "reads the score's distribution once and samples no votes", {**_UNSAMPLED, **_UNCOMPARED}
    ),
    "pairwise": Mode(
        "reads which of two responses is preferred, samples no votes and has no scores",
        {**_UNSAMPLED, **_UNSCORED},
    ),
}


def settled_by(mode: ModeName, *, is_served: bool, is_custom: bool = False) -> dict[str, Any]:
    """What the mode settles. A served judge writes in each mode, so its budget is its own."""
    if is_custom:
        return _UNASKED
    if not is_served:
        return MODES[mode].settled
    settled = {**MODES[mode].settled, **_UNSERVED}
    settled.pop("max_new_tokens", None)
    return settled


def contradiction(
    mode: ModeName, given: dict[str, Any], *, is_served: bool = False, is_custom: bool = False
) -> str:
    """Why settings given explicitly (name -> value) cannot hold in this mode; empty where they can."""
    if is_custom:
        return _custom_contradiction(given)
    if is_served and (message := _served_contradiction(given)):
        return message
    settled = settled_by(mode, is_served=is_served)
    wrong = [name for name in sorted(settled.keys() & given.keys()) if given[name] != settled[name]]
    if not wrong:
        return ""
    said = ", ".join(f"{name}={given[name]!r}" for name in wrong)
    other: ModeName = "pairwise" if set(wrong) <= _UNCOMPARED.keys() else "sampled"
    return (
        f"mode {mode!r} {MODES[mode].does}, so {said} would have no effect; "
        f"leave {'that' if len(wrong) == 1 else 'those'} out, or take mode {other!r}"
    )


def _served_contradiction(given: dict[str, Any]) -> str:
    """Why settings cannot hold for a served judge, in whatever mode; empty where they can."""
    if given.get("model") is not None:
        return (
            "model and server are both given, but one judge judges: leave model out for the served one (its "
            "name is server.model), or server for one in this process"
        )
    wrong = [name for name in _UNSERVED if name in given and given[name] != _UNSERVED[name]]
    if not wrong:
        return ""
    said = ", ".join(f"{name}={given[name]!r}" for name in wrong)
    return (
        f"a served judge cannot be asked for {said}, as its interface knows temperature, top_p and stop "
        "alone; leave that out, put what your server knows beside them into server.extra_body, or judge with "
        "model"
    )


def _custom_contradiction(given: dict[str, Any]) -> str:
    """Why settings cannot hold beside a judge of one's own; empty where they can."""
    wrong = [name for name in _UNASKED if name in given and given[name] != _UNASKED[name]]
    if not wrong:
        return ""
    said = ", ".join(f"{name}={given[name]!r}" for name in wrong)
    return (
        f"custom is a judge of your own, which {said} would not reach; give it what it needs by options, and "
        "leave the rest out"
    )

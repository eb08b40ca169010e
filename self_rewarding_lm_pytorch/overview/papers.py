"""Learning rates and batches that the papers used, to say where a plan leaves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from self_rewarding_lm_pytorch.stages.base import StageConfig


def iterations(stage: Any) -> list[Any]:
    """How a stage trains, once for each of its own iterations; none where it does not."""
    if getattr(stage, "train", None) is None:
        return []
    if not getattr(stage, "per_iteration", None):
        return [stage.train]
    return [stage.settings(number) for number in range(stage.num_iterations)]


@dataclass(frozen=True)
class Used:
    """Peak learning rates and pairs or items in a step, lowest to highest."""

    learning_rate: tuple[float, float]
    batch_size: tuple[int, int]
    source: str


_PREFERENCE = Used(
    (1e-7, 5e-6), (16, 128), "Self-Rewarding LMs, SPIN, Meta-Rewarding LMs; and OAIF's, which is unchecked"
)
PAPERS: dict[str, Used] = {
    "sft": Used((5.5e-6, 5.5e-6), (16, 16), "Self-Rewarding LMs, section 3.1"),
    "self_reward": Used((1e-6, 5e-6), (16, 32), "Self-Rewarding LMs, section 3.1, and Meta-Rewarding LMs"),
    "meta_reward": Used((5e-6, 5e-6), (32, 32), "Meta-Rewarding LMs"),
    "spin": Used((1e-7, 5e-7), (64, 64), "SPIN"),
    "online": Used((5e-7, 5e-7), (128, 128), "OAIF as others tell it, unchecked"),
    "dpo": _PREFERENCE,
    "external_reward": _PREFERENCE,
}


_ADAPTERS = Used(
    (1e-6, 1e-4), (1, 10**9), "adapters take about ten times the rate of full training: unchecked"
)


def outside_the_papers(stage: StageConfig, *, is_small: bool = False, has_adapter: bool = False) -> list[str]:
    """In words, what of the stage's training is outside what the papers used; their models had 7 to 70 B.

    is_small: the plan was scaled, so its batches say nothing. has_adapter: the papers trained all weights, so
    its rate is compared with what is usual for adapters.
    """
    settings, used = iterations(stage), PAPERS.get(stage.kind)
    if used is None:
        return []
    lines = []
    for name in ("learning_rate",) if is_small else ("learning_rate", "batch_size"):
        is_usual = has_adapter and name == "learning_rate"
        low, high = getattr(_ADAPTERS if is_usual else used, name)
        values = dict.fromkeys(getattr(each, name) for each in settings)
        lines += [
            f"{name} {value:g} is outside what was used for "
            f"{'adapters' if is_usual else stage.kind}, {_range(low, high)} "
            f"({_ADAPTERS.source if is_usual else used.source})"
            for value in values
            if not low <= value <= high
        ]
    return lines


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"

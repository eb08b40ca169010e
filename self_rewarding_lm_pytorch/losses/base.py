"""What a preference loss is: a function of log-probs and what it needs to be computed."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from self_rewarding_lm_pytorch.records import PairLogProbs


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """A loss by name. Callers read its needs, never its name."""

    name: str
    value: Callable[[PairLogProbs, float], Tensor]  # (log-probs, beta) -> loss per pair, (B,)
    needs_reference: bool = True

    def __call__(self, logprobs: PairLogProbs, beta: float) -> Tensor:
        return self.value(logprobs, beta)

"""Length control: among candidates of nearly the same worth, a short one is chosen and a long one rejected.

Meta-Rewarding Language Models (arXiv 2407.19594, section 2.1). Judges lean to long responses; where two are
nearly as good, the pair then speaks against length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.points import at_least


@dataclass(frozen=True)
class LengthControl:
    """Chosen: the shortest response scored in [(1 - rho) high + rho low, high], where high and low are the
    best and the worst score of the visit; rejected: the longest in [low, (1 - rho) low + rho high].

    A score on a band's edge is in it, whatever the last digit of a float says.

    rho: 0 <= rho < 0.5. With 0 the best is chosen and the worst rejected, the first among equals, whatever
        their lengths. At 0.5 the bands would meet, and one response could be chosen and rejected.
    With rho > 0, of equally long responses the better scored is chosen and the worse scored rejected, then
    the first. Raises ConfigError for another rho.
    """

    rho: float

    def __post_init__(self) -> None:
        if not 0 <= self.rho < 0.5:
            raise ConfigError(
                f"rho is {self.rho!r}; it is the share of the range of scores from which the chosen and the "
                "rejected response are taken, 0 <= rho < 0.5: from 0.5 on, one response could be both"
            )

    def pick(self, scores: Sequence[float], lengths: Sequence[int]) -> tuple[int, int]:
        """Indices of the chosen and the rejected candidate.

        scores: higher is better, NaN for none, which takes no part; at least one is a number.
        lengths: of each candidate, in tokens.
        """
        places = [place for place, score in enumerate(scores) if not math.isnan(score)]
        high, low = max(scores[place] for place in places), min(scores[place] for place in places)
        if not self.rho:
            return scores.index(high), scores.index(low)
        reach = self.rho * (high - low)
        upper = [place for place in places if scores[place] == high or at_least(scores[place], high - reach)]
        lower = [place for place in places if scores[place] == low or at_least(low + reach, scores[place])]
        chosen = min(upper, key=lambda place: (lengths[place], -scores[place]))
        rejected = min(lower, key=lambda place: (-lengths[place], scores[place]))
        return chosen, rejected

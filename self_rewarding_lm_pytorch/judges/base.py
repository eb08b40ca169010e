"""What a judge is."""

from collections.abc import Callable, Sequence
from typing import Protocol

from self_rewarding_lm_pytorch.records import Candidate, Judgment, Prompt

TOO_LONG = "judge prompt of"
"""How the reason of a judgment begins that did not fit the judge's context."""

OnProgress = Callable[[int, int], None]
"""Called with (units finished, tokens sampled) since the last call."""


class Judge(Protocol):
    """Scores candidates. Absent is not zero: what cannot be scored has score None and a reason."""

    num_votes: int  # readings of each candidate; 0 where one number is computed

    def judge(
        self, shown: Sequence[tuple[Prompt, Candidate]], *, on_progress: OnProgress | None = None
    ) -> list[Judgment]:
        """One judgment for each candidate, in order."""
        ...

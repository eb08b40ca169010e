"""What the other processes of a run say: the main one says it for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from self_rewarding_lm_pytorch.progress import Reporter


class Silent(Reporter):
    """Says nothing, warnings and tables included."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def warn(self, text: str) -> None:
        pass

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        pass

"""How many tokens an item may have: what the model cannot read is refused, or left out as a plan says."""

from __future__ import annotations

from dataclasses import dataclass

from self_rewarding_lm_pytorch.errors import DataError


@dataclass
class Room:
    """context: the model's; max_tokens: a plan's own bound. Counts what it is asked about; a pair is one."""

    context: int | None
    max_tokens: int | None = None
    kept: int = 0
    left_out: int = 0

    def holds(self, tokens: int, what: str) -> bool:
        """False: leave it out. Raises DataError where it is over the context and under no lower bound."""
        if self.max_tokens is not None and tokens > self.max_tokens:
            self.left_out += 1
            return False
        if self.context is not None and tokens > self.context:
            raise DataError(
                f"{what} has {tokens} tokens, but the model's context is {self.context}; shorten it, take it "
                f"out, or have a plan leave out such items (max_item_tokens: {self.context}): none is cut "
                "silently"
            )
        self.kept += 1
        return True

    def said(self) -> str:
        """How many were left out; empty where none was."""
        if not self.left_out:
            return ""
        total = self.kept + self.left_out
        bound = f"max_item_tokens {self.max_tokens}"
        return f"{self.left_out:,} of {total:,} have more than {bound} and are left out"

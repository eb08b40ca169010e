"""The samples of a call while they are under way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from self_rewarding_lm_pytorch.generation.requests import Completion, Request
from self_rewarding_lm_pytorch.records import FinishReason


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Where a sample belongs, and where its random numbers come from."""

    number: int  # of its request in the call
    place: int  # among the request's samples
    key: int


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Samples that have written the same so far behind the same prompt: one row until they part."""

    request: Request
    written: list[int]
    samples: list[Sample]

    def continued(self, drawn: Iterator[int]) -> list[Row]:
        """With its samples' next tokens: one row, or several where they differ."""
        by_token: dict[int, list[Sample]] = {}
        for one in self.samples:
            by_token.setdefault(next(drawn), []).append(one)
        return [Row(self.request, [*self.written, token], own) for token, own in by_token.items()]


class Work:
    """The samples of a call, and what became of them."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.completions: list[list[Completion]] = [[_UNFINISHED] * len(x.keys) for x in requests]
        alike: dict[tuple[object, ...], Row] = {}
        for number, request in enumerate(requests):
            same = (request.ids, request.max_new_tokens, request.stop)
            row = alike.setdefault(same, Row(request, [], []))
            row.samples.extend(Sample(number, place, key) for place, key in enumerate(request.keys))
        self.rows = alike.values()

    def end(self, row: Row, eos_ids: frozenset[int]) -> bool:
        """Whether the row's last token ended it; then its samples are complete."""
        reason: FinishReason
        if row.written[-1] in eos_ids:
            reason = "eos"
        elif row.request.stop is not None and row.request.stop(row.written):
            reason = "stop"
        elif len(row.written) >= row.request.max_new_tokens:
            reason = "length"
        else:
            return False
        completion = Completion(tuple(row.written), reason)
        for one in row.samples:
            self.completions[one.number][one.place] = completion
        return True


_UNFINISHED = Completion((), "length")


def apart(rows: list[Row]) -> list[Row]:
    """Each sample as a row of its own."""
    return [Row(row.request, row.written, [one]) for row in rows for one in row.samples]

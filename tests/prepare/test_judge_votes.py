"""Stored votes on people's responses are read as what they are, whatever size shards have by then."""

from __future__ import annotations

from pathlib import Path

import pytest

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.judges.function import FunctionJudge
from self_rewarding_lm_pytorch.prepare.judge_votes import VotesInShards
from self_rewarding_lm_pytorch.records import JudgedPrompt
from tests.helpers import byte_codec
from tests.stages.worlds import QUIET

ENTRIES = [
    JudgedPrompt(i, f"q{i}", tuple(f"a{i}{n}" for n in range(1 + i % 3)), (1.0,) * (1 + i % 3), True)
    for i in range(7)
]


def votes(folder: Path, size: int) -> VotesInShards:
    def worth(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(sum(map(ord, p + 3 * r))) for p, r in zip(prompts, responses, strict=True)]

    return VotesInShards(FunctionJudge(worth), byte_codec(), ShardStore(folder), size=size, reporter=QUIET)


@pytest.mark.parametrize("size", [1, 3, 9])
def test_shards_of_another_size_are_gone_on_with_where_they_end(size: int, tmp_path: Path) -> None:
    begun = votes(tmp_path, 2).on(ENTRIES)
    for _ in range(3):
        next(begun)
    found = list(votes(tmp_path, size).on(ENTRIES))
    assert found == list(votes(tmp_path / "whole", 2).on(ENTRIES))


def test_votes_on_other_responses_are_refused(tmp_path: Path) -> None:
    list(votes(tmp_path, 2).on(ENTRIES))
    with pytest.raises(
        CheckpointError, match=r"00000\.parquet holds the judgments of other responses.*remove"
    ):
        list(votes(tmp_path, 2).on(ENTRIES[1:]))

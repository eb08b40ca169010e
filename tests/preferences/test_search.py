"""The search for pairs ends: with what it found and a yield table, or with an error that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.judges.function import FunctionJudge
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.preferences.pairing import PairingRule
from self_rewarding_lm_pytorch.preferences.search import VISITS_PER_PAIR, PairSearch
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, PreferencePair, Prompt
from tests.helpers import byte_codec, recurrent

PROMPTS = [Prompt(i, f"p{i}", tuple(f"p{i}".encode())) for i in range(5)]


def search(
    folder: Path,
    reward: Callable[[list[str], list[str]], Any],
    *,
    num_pairs: int | None = None,
    shard_size: int = 4,
    seed: int = 0,
    prompts: Sequence[Prompt] = PROMPTS,
    rule: PairingRule | None = None,
) -> PairSearch:
    codec = byte_codec()
    sampler = CandidateSampler(
        PolicyGenerator(recurrent(vocab=256), codec.eos_ids),
        codec,
        num=2,
        sampling=Sampling(1.0, None),
        max_new_tokens=3,
        max_seq_len=None,
        policy_name="start",
        seed=(seed,),
    )
    return PairSearch(
        prompts,
        sampler,
        FunctionJudge(reward),
        rule or PairingRule(),
        ShardStore(folder),
        num_pairs=num_pairs,
        shard_size=shard_size,
        seed=(seed,),
        reporter=Reporter(),
    )


def by_place(prompts: list[str], responses: list[str]) -> list[float]:
    """The second of two answers is better, always."""
    return [float(i % 2) for i in range(len(prompts))]


def ties(prompts: list[str], responses: list[str]) -> list[float]:
    return [1.0] * len(prompts)


def only(name: str) -> Callable[[list[str], list[str]], list[float]]:
    """Ties but for one prompt."""

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(i % 2) if prompt == name else 1.0 for i, prompt in enumerate(prompts)]

    return reward


def visits(folder: Path) -> list[tuple[int, int]]:
    return list(dict.fromkeys((c.prompt_index, c.visit) for c in ShardStore(folder).read_all(Candidate)))


def test_without_a_number_every_prompt_is_visited_once(tmp_path: Path) -> None:
    found = search(tmp_path, by_place)
    pairs = found.run()
    assert sorted(pair.prompt_index for pair in pairs) == [0, 1, 2, 3, 4]
    counts = found.work.counts
    assert (counts.prompts, counts.visits, counts.candidates, counts.pairs) == (5, 5, 10, 5)
    assert {pair.visit for pair in pairs} == {0}
    assert all((pair.chosen_score, pair.rejected_score) == (1.0, 0.0) for pair in pairs)


def test_each_round_visits_every_prompt_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    search(tmp_path / "a", by_place, num_pairs=15).run()
    seen = visits(tmp_path / "a")
    rounds = [[prompt for prompt, visit in seen if visit == number] for number in range(3)]
    assert [visit for _, visit in seen] == [0] * 5 + [1] * 5 + [2] * 5
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    search(tmp_path / "b", by_place, num_pairs=15, shard_size=7).run()
    assert visits(tmp_path / "b") == seen, "the order is the plan's, not the shards'"
    search(tmp_path / "c", by_place, num_pairs=15, seed=1).run()
    assert visits(tmp_path / "c") != seen


def test_a_later_visit_samples_other_answers_and_the_same_visit_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        search(tmp_path / name, by_place, num_pairs=10).run()
    ours, theirs = (ShardStore(tmp_path / name).read_all(Candidate) for name in ("a", "b"))
    assert ours == theirs
    first = {c.prompt_index: c.key for c in ours if (c.visit, c.index) == (0, 0)}
    second = {c.prompt_index: c.key for c in ours if (c.visit, c.index) == (1, 0)}
    assert all(first[index] != second[index] for index in first)


def test_the_search_stops_at_four_visits_for_each_pair_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = search(tmp_path, only("p3"), num_pairs=5)
    pairs = found.run()
    assert VISITS_PER_PAIR == 4
    assert found.work.counts.visits == len(visits(tmp_path)) == 20
    assert [pair.prompt_index for pair in pairs] == [3] * 4, "each of four rounds meets it once"
    out = capsys.readouterr().out
    assert "warning: 4 pairs were found of the 5 asked for, after 20 visits (4 for each pair" in out
    assert "no pair: tie         16" in out


def test_the_search_ends_as_soon_as_there_are_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = search(tmp_path, by_place, num_pairs=6)
    assert len(found.run()) == 6
    assert found.work.counts.visits == 6, "a shard of four, then the two that are missing"
    assert "warning" not in capsys.readouterr().out


def test_pairs_over_the_need_are_counted_and_not_trained_on(tmp_path: Path) -> None:
    """A shard is at least a sixteenth of the usual size, so the last may find more than is missing."""
    found = search(tmp_path, by_place, num_pairs=5, shard_size=32)
    assert len(found.run()) == 5
    more = search(tmp_path / "b", only("p1"), num_pairs=2, shard_size=64, prompts=PROMPTS[1:2])
    assert len(more.run()) == 2
    assert more.work.counts.skipped == {"more than asked for": 2}
    assert more.work.counts.visits == 4
    assert len(ShardStore(tmp_path / "b").read_all(PreferencePair)) == 2


def test_no_pair_is_an_error_with_the_table_and_skipped_json_tells_each_visit(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        search(tmp_path, ties, num_pairs=2).run()
    text = " ".join(str(error.value).split())
    assert "no preference pair came out of 8 visits" in text
    assert "prompts 5 visits 8 candidates 16 pairs 0 no pair: tie 8" in text
    skipped = json.loads((tmp_path / "skipped.json").read_text())
    assert skipped["counts"] == {"tie": 8}
    assert [(v["prompt_index"], v["visit"]) for v in skipped["visits"]] == visits(tmp_path)


def test_every_way_to_lose_a_visit_is_counted_apart(tmp_path: Path) -> None:
    def reward(prompts: list[str], responses: list[str]) -> list[float | None]:
        kinds: dict[str, tuple[float | None, float | None]] = {
            "p0": (None, 1.0),
            "p1": (2.0, 2.0),
            "p2": (1.0, 1.2),
            "p3": (float("nan"), float("inf")),
            "p4": (5.0, 0.0),
        }
        return [kinds[prompt][i % 2] for i, prompt in enumerate(prompts)]

    found = search(tmp_path, reward, rule=PairingRule(min_margin=0.5))
    assert [pair.prompt_index for pair in found.run()] == [4]
    assert found.work.counts.as_dict()["skipped"] == {
        "fewer than two usable candidates (no score)": 2,
        "margin too small": 1,
        "tie": 1,
    }


def test_a_search_goes_on_with_what_is_stored(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", by_place, num_pairs=10)
    expected = list(whole.run())
    calls: list[int] = []

    def broken(prompts: list[str], responses: list[str]) -> list[float]:
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return by_place(prompts, responses)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", broken, num_pairs=10).run()
    again = search(tmp_path / "cut", broken, num_pairs=10)
    assert list(again.run()) == expected
    assert calls == [8, 8, 4, 4], "only the shard that was cut off is judged again"
    assert again.work.counts == whole.work.counts
    assert again.work.tokens_generated == whole.work.tokens_generated > 0

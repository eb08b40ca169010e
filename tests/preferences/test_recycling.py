"""A prompt that gave no pair is visited again, with more candidates beside those it had."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.export import export_run
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.judges.function import FunctionJudge
from self_rewarding_lm_pytorch.preferences.candidates import CandidateSampler
from self_rewarding_lm_pytorch.preferences.pairing import PairingRule
from self_rewarding_lm_pytorch.preferences.search import PairSearch
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Prompt
from tests.helpers import byte_codec, recurrent

PROMPTS = [Prompt(i, f"p{i}", tuple(f"p{i}".encode())) for i in range(5)]
NUM = 2
Reward = Callable[[list[str], list[str]], list[float]]
Place = tuple[int, int]


def search(
    folder: Path,
    reward: Reward,
    *,
    recycle: int,
    num_pairs: int | None = None,
    shard_size: int = 2,
    rule: PairingRule | None = None,
) -> PairSearch:
    codec = byte_codec()
    sampler = CandidateSampler(
        PolicyGenerator(recurrent(vocab=256), codec.eos_ids),
        codec,
        num=NUM,
        sampling=Sampling(1.0, None),
        max_new_tokens=3,
        max_seq_len=None,
        policy_name="start",
        seed=(0,),
    )
    return PairSearch(
        PROMPTS,
        sampler,
        FunctionJudge(reward),
        rule or PairingRule(),
        ShardStore(folder),
        num_pairs=num_pairs,
        shard_size=shard_size,
        seed=(0,),
        reporter=Reporter(),
        recycle=recycle,
    )


def rare(prompts: list[str], responses: list[str]) -> list[float]:
    """One answer in five is better, whatever the prompt."""
    return [float(sum(map(ord, text)) % 5 == 0) for text in responses]


def rarer(prompts: list[str], responses: list[str]) -> list[float]:
    """One answer in eleven is better."""
    return [float(sum(map(ord, text)) % 11 == 0) for text in responses]


def ties(prompts: list[str], responses: list[str]) -> list[float]:
    return [1.0] * len(prompts)


def by_visit(folder: Path) -> dict[Place, list[Candidate]]:
    found: dict[Place, list[Candidate]] = {}
    for each in ShardStore(folder).read_all(Candidate):
        found.setdefault((each.prompt_index, each.visit), []).append(each)
    return found


def judged(folder: Path) -> dict[Place, list[Judgment]]:
    found: dict[Place, list[Judgment]] = {}
    for each in ShardStore(folder).read_all(Judgment):
        found.setdefault((each.prompt_index, each.visit), []).append(each)
    return found


def own_keys(own: list[Candidate]) -> list[int]:
    return [each.key for each in own]


@pytest.mark.parametrize(("num_pairs", "reward"), [(None, rare), (4, rarer)])
def test_every_visit_again_adds_candidates_to_all_that_the_prompt_left_unpaired(
    num_pairs: int | None, reward: Reward, tmp_path: Path
) -> None:
    pairs = search(tmp_path, reward, recycle=4, num_pairs=num_pairs).run()
    paired = {(pair.prompt_index, pair.visit) for pair in pairs}
    found, votes = by_visit(tmp_path), judged(tmp_path)
    last_ordinary = 0 if num_pairs is None else (4 * num_pairs - 1) // 5
    recycled = [place for place in found if place[1] > last_ordinary]
    assert recycled, "some prompt gave no pair at first"
    for index, visit in found:
        own = found[index, visit]
        assert [each.index for each in own] == list(range(len(own)))
        assert [each.candidate_index for each in votes[index, visit]] == list(range(len(own)))
        before = sorted(v for i, v in found if i == index and v < visit)
        if visit <= last_ordinary:
            assert len(own) == NUM
            continue
        assert not any((index, v) in paired for v in before), "only prompts without a pair come back"
        left = [key for v in before[:-1] for key in own_keys(found[index, v])] if num_pairs else []
        left = left if before[-1] <= last_ordinary else []
        assert own_keys(own)[:-NUM] == left + own_keys(found[index, before[-1]])
        assert [vote.score for vote in votes[index, visit]] == reward([], [each.text for each in own])


def test_visits_again_have_numbers_and_random_numbers_of_their_own(tmp_path: Path) -> None:
    found = search(tmp_path, rarer, recycle=4, num_pairs=4)
    assert max(pair.visit for pair in found.run()) > 3
    store = ShardStore(tmp_path)
    places = [
        place
        for shard in range(store.num_shards(Candidate))
        for place in dict.fromkeys((c.prompt_index, c.visit) for c in store.read(Candidate, shard))
    ]
    assert len(places) == len(set(places)) == found.work.counts.visits
    fresh = [each.key for own in by_visit(tmp_path).values() for each in own[-NUM:]]
    assert len(fresh) == len(set(fresh)) == NUM * len(places)


def test_no_candidate_is_judged_twice_and_the_yield_counts_each_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def counted(prompts: list[str], responses: list[str]) -> list[float]:
        asked.append(len(responses))
        return rare(prompts, responses)

    found = search(tmp_path, counted, recycle=3)
    pairs = found.run()
    counts, store = found.work.counts, ShardStore(tmp_path)
    assert sum(asked) == counts.candidates == NUM * counts.visits
    assert len(store.read_all(Candidate)) > counts.candidates, "pooled ones stand in both their visits"
    assert counts.visits == counts.pairs + sum(counts.skipped.values()) > counts.prompts == len(PROMPTS)
    assert counts.pairs == len(pairs) == len({pair.prompt_index for pair in pairs})
    fresh = [each for own in by_visit(tmp_path).values() for each in own[-NUM:]]
    assert found.work.tokens_generated == sum(len(each.ids) for each in fresh)


def test_a_pair_names_the_stored_candidates_of_its_visit_and_may_take_one_from_the_pool(
    tmp_path: Path,
) -> None:
    pairs = search(tmp_path, rare, recycle=4).run()
    found, from_pool = by_visit(tmp_path), 0
    for pair in pairs:
        own = found[pair.prompt_index, pair.visit]
        chosen, rejected = own[pair.chosen_index], own[pair.rejected_index]
        assert (chosen.text, chosen.ids) == (pair.chosen, pair.chosen_ids)
        assert (rejected.text, rejected.ids) == (pair.rejected, pair.rejected_ids)
        assert (chosen.visit, chosen.index) == (pair.visit, pair.chosen_index)
        assert rare([], [pair.chosen, pair.rejected]) == [1.0, 0.0]
        from_pool += min(pair.chosen_index, pair.rejected_index) < len(own) - NUM
    assert from_pool


def test_visits_are_bounded_where_no_pair_is_ever_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="out of 15 visits"):
        search(tmp_path / "a", ties, recycle=2).run()
    with pytest.raises(DataError, match=r"out of 18 visits"):
        search(tmp_path / "b", ties, recycle=2, num_pairs=2).run()
    skipped = json.loads((tmp_path / "b" / "skipped.json").read_text())
    assert skipped["counts"] == {"tie": 18}
    assert len({(row["prompt_index"], row["visit"]) for row in skipped["visits"]}) == 18


def only(*better: str) -> Reward:
    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(i % 2) if prompt in better else 1.0 for i, prompt in enumerate(prompts)]

    return reward


def test_nothing_is_recycled_where_every_prompt_gave_a_pair_or_enough_were_found(tmp_path: Path) -> None:
    found = search(tmp_path / "a", only("p0", "p1", "p2", "p3", "p4"), recycle=2)
    assert len(found.run()) == 5
    assert found.work.counts.visits == 5
    enough = search(tmp_path / "b", only("p0", "p3"), recycle=2, num_pairs=2)
    assert len(enough.run()) == 2
    assert max(visit for _, visit in by_visit(tmp_path / "b")) <= 1


def test_a_search_for_a_number_comes_back_only_for_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """p1 gives a pair in each of four rounds; in the fifth p0 gives the one that is missing."""

    def late(prompts: list[str], responses: list[str]) -> list[float]:
        asked.update(prompts)
        return [
            float(i % 2) if prompt == "p1" or (prompt == "p0" and asked[prompt] > 4 * NUM) else 1.0
            for i, prompt in enumerate(prompts)
        ]

    asked: Counter[str] = Counter()
    found = search(tmp_path, late, recycle=3, num_pairs=5, shard_size=4)
    pairs = found.run()
    assert [(pair.prompt_index, pair.visit) for pair in pairs] == [(1, 0), (1, 1), (1, 2), (1, 3), (0, 4)]
    assert found.work.counts.visits == 21, "one visit at a time, as one pair was missing"
    assert "asked for" not in capsys.readouterr().out


def test_too_few_pairs_are_told_with_the_visits_that_recycling_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path, only("p1"), recycle=1, num_pairs=5).run()
    assert (
        "4 pairs were found of the 5 asked for, after 24 visits (4 for each pair at the most and those of"
        in (capsys.readouterr().out)
    )


def test_a_found_pair_too_many_sends_no_prompt_round_again(tmp_path: Path) -> None:
    """A shard of at least a sixteenth of the usual size finds more than is missing."""
    found = search(tmp_path, only("p0", "p1", "p2", "p3", "p4"), recycle=2, num_pairs=1, shard_size=64)
    assert len(found.run()) == 1
    assert found.work.counts.skipped == {"more than asked for": 3}
    assert found.work.counts.visits == 4


def files(folder: Path) -> dict[str, list[Any]]:
    store = ShardStore(folder)
    return {kind.__name__: store.read_all(kind) for kind in (Candidate, Judgment, PreferencePair)}


def test_a_search_cut_off_anywhere_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Cut off behind one file or another: answers, scores and pairs of a shard, in this order."""
    whole = search(tmp_path / "whole", rarer, recycle=4, num_pairs=4)
    expected = list(whole.run())
    kinds = (Candidate, Judgment, PreferencePair)
    shards = ShardStore(tmp_path / "whole").num_shards(PreferencePair)
    assert max(pair.visit for pair in expected) > 3, "a pair comes of recycling"
    for stop in (2, 23, 24, 25, 26, 27, 3 * shards - 1):  # the ordinary visits are eight shards
        folder = tmp_path / f"cut {stop}"
        for number in range(stop):
            kind, source = kinds[number % 3], ShardStore(tmp_path / "whole")
            to = ShardStore(folder).path(kind, number // 3)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(source.path(kind, number // 3).read_bytes())
        again = search(folder, rarer, recycle=4, num_pairs=4)
        assert list(again.run()) == expected
        assert files(folder) == files(tmp_path / "whole")
        assert again.work.counts == whole.work.counts
        assert again.work.tokens_generated == whole.work.tokens_generated
        skipped = [(at / "skipped.json").read_text() for at in (folder, tmp_path / "whole")]
        assert skipped[0] == skipped[1]


def test_a_cut_in_a_recycled_shard_judges_nothing_again(tmp_path: Path) -> None:
    calls: list[list[str]] = []

    def broken(prompts: list[str], responses: list[str]) -> list[float]:
        calls.append(responses)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return rare(prompts, responses)

    expected = list(search(tmp_path / "whole", rare, recycle=3).run())
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", broken, recycle=3).run()
    assert list(search(tmp_path / "cut", broken, recycle=3).run()) == expected
    assert calls[4] == calls[5], "what was cut off"
    assert all(len(one) <= 2 * NUM for one in calls)
    assert not any(one == other for place, (one, other) in enumerate(pairwise(calls)) if place != 4)


def test_shards_of_another_size_find_the_same(tmp_path: Path) -> None:
    small = list(search(tmp_path / "small", rare, recycle=3, shard_size=1).run())
    large = list(search(tmp_path / "large", rare, recycle=3, shard_size=64).run())
    assert small == large


def test_an_answer_that_a_later_visit_took_up_is_exported_once(tmp_path: Path) -> None:
    stage = tmp_path / "stages" / "01-own"
    search(stage, rare, recycle=3).run()
    store = ShardStore(stage)
    keys = own_keys(store.read_all(Candidate))
    assert len(keys) > len(set(keys)), "nothing was taken up"
    written = {file.path: file.rows for file in export_run(tmp_path, tmp_path / "out")}
    assert written[tmp_path / "out" / "01-own-judgments.jsonl"] == len(set(keys))

"""A watch is told what a stage makes, on real records: what it counts, says, writes, and finds on resume."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from self_rewarding_lm_pytorch.alarms import RULES, Alarm, Limit, StopRun
from self_rewarding_lm_pytorch.judges.base import judgment_of
from self_rewarding_lm_pytorch.preferences.yields import Yield
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PairExample, Vote
from self_rewarding_lm_pytorch.stages.alarm_log import AlarmLog, stored_alarms
from self_rewarding_lm_pytorch.stages.tally import CommonestScore, Tally
from self_rewarding_lm_pytorch.stages.watch import Watch
from self_rewarding_lm_pytorch.text import example_from_parts

LIMITS = {kind: Limit(rule.threshold, rule.then) for kind, rule in RULES.items()}
Shard = tuple[list[Candidate], list[Judgment]]


def vote(index: int, score: float | None, status: Any = "parsed") -> Vote:
    return Vote(index, "text", score, status if score is not None else "unparsed")


def visit(
    prompt: int,
    scores: Sequence[float | None],
    *,
    texts: Sequence[str] = ("a", "bb", "ccc", "dddd"),
    finish: Any = "eos",
    votes: int = 2,
) -> Shard:
    """A visit's candidates, and judgments of equal votes (votes 0: one number each)."""
    candidates, judgments = list[Candidate](), list[Judgment]()
    for index, score in enumerate(scores):
        ids = tuple(texts[index].encode())
        own = Candidate(prompt, 0, index, ids, texts[index], finish, 100 * prompt + index, "start")
        candidates.append(own)
        if votes:
            judgments.append(judgment_of(own, [vote(n, score) for n in range(votes)]))
        else:
            judgments.append(Judgment(prompt, 0, index, score))
    return candidates, judgments


def shard(visits: Sequence[Shard]) -> Shard:
    candidates = [candidate for own, _ in visits for candidate in own]
    return candidates, [judgment for _, own in visits for judgment in own]


class Said(Reporter):
    """What a terminal would show."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def watch_of(run: Path, stage: str = "01-own", *, said: Said | None = None, **limits: Limit | None) -> Watch:
    (run / "stages" / stage).mkdir(parents=True, exist_ok=True)
    on = {kind: limit for kind, limit in {**LIMITS, **limits}.items() if limit is not None}
    watch = Watch(on, run / "stages" / stage, "self_reward", said or Said())
    watch.begin()
    return watch


def kinds(run: Path) -> list[tuple[str, str, int]]:
    return [(line["stage"], line["kind"], line["at"]) for line in stored_alarms(run)]


HEALTHY = [visit(n, (1.0 + n % 3, 2.0, 4.0)) for n in range(40)]


def test_a_healthy_stage_gives_no_alarm_and_leaves_no_file(tmp_path: Path) -> None:
    said = Said()
    watch = watch_of(tmp_path, said=said)
    watch.judged(0, *shard(HEALTHY))
    watch.paired(0, Yield(visits=40, pairs=39), 100)
    for step in (1, 2, 3):
        watch.logged(step, {"loss": 0.7, "chosen_logprob_per_token": -1.0 - step / 10})
    watch.close()
    assert said.warnings == []
    assert not (tmp_path / "alarms.jsonl").exists()


UNHEALTHY: dict[str, Shard] = {
    "parse_rate": shard([visit(n, (None, None, 1.0 + n % 4)) for n in range(20)]),
    "tie_rate": shard([visit(n, (float(n),) * 3) for n in range(40)]),
    "score_collapse": shard(
        [*(visit(n, (3.0, 3.0, 3.0)) for n in range(40)), *(visit(40 + n, (3.0, 4.0)) for n in range(4))]
    ),
    "never_ends": shard([visit(n, (1.0 + n % 3, 2.0, 4.0), finish="length") for n in range(40)]),
    "duplicates": shard(
        [visit(n, (1.0 + n % 3, 2.0, 4.0), texts=("same", "same", "other")) for n in range(40)]
    ),
}


@pytest.mark.parametrize("kind", UNHEALTHY)
def test_each_fault_of_candidates_and_judgments_gives_its_alarm_once(tmp_path: Path, kind: str) -> None:
    said = Said()
    others = {other: None for other in RULES if other != kind}
    watch = watch_of(tmp_path, said=said, **others)
    watch.judged(0, *UNHEALTHY[kind])
    watch.judged(1, *UNHEALTHY[kind])
    assert [line["kind"] for line in stored_alarms(tmp_path)] == [kind]
    assert len(said.warnings) == 1 and f"alarm {kind} in 01-own, shard 1:" in said.warnings[0]


def test_counts_are_those_of_the_records() -> None:
    tally = Tally()
    first = visit(0, (1.0, 1.0, None), texts=("same", "same", "other"))
    second = visit(1, (2.0, 5.0), finish="length")
    forced = replace(
        second[1][0], votes=(vote(0, None), vote(0, 2.0, "forced"), vote(1, 4.0, "expected")), score=3.0
    )
    candidates, judgments = shard([first, (second[0], [forced, second[1][1]])])
    tally.add_candidates(candidates)
    tally.add_judgments(candidates, judgments)
    assert (tally.candidates, tally.tokens, tally.cut_off) == (5, 4 + 4 + 5 + 1 + 2, 2)
    assert (tally.grouped, tally.repeated) == (5, 2)
    # Votes: 2 of each of three candidates, an unparsed one with a forced score after it, and an expected one.
    assert (tally.votes, tally.votes_parsed) == (6 + 2 + 2, 4 + 1 + 2)
    assert (tally.compared, tally.tied) == (2, 1), "the unscored candidate does not count as another score"
    assert tally.scores.num == 4 + 2 + 2
    assert tally.scores.top == (1.0, 4)


def test_one_number_each_counts_as_a_score_and_as_no_vote() -> None:
    tally = Tally()
    candidates, judgments = visit(0, (0.25, 0.25, None), votes=0)
    tally.add_judgments(candidates, judgments)
    assert (tally.votes, tally.scores.num, tally.scores.top) == (0, 2, (0.25, 2))


def test_candidates_that_an_earlier_visit_left_are_counted_once() -> None:
    once, twice = Tally(), Tally()
    kept = visit(0, (1.0, 1.0))
    again = shard([kept, visit(0, (2.0,))])
    fresh = [replace(own, key=999) if place == 2 else own for place, own in enumerate(again[0])]
    for tally in (once, twice):
        tally.add_candidates(kept[0])
        tally.add_judgments(*kept)
    keys = {candidate.key for candidate in kept[0]}
    once.add_candidates(fresh, keys)
    once.add_judgments(fresh, again[1], keys)
    twice.add_candidates(fresh)
    assert (once.candidates, once.votes, once.scores.num) == (3, 6, 6)
    assert twice.candidates == 5
    assert (once.compared, once.tied) == (2, 1), "the visit itself is another one, with all its candidates"


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, 3.0]), max_size=60))
def test_the_commonest_score_is_exact_where_there_are_few(scores: list[float]) -> None:
    commonest = CommonestScore()
    for score in scores:
        commonest.add(score)
    expected = min(Counter(scores).items(), key=lambda each: (-each[1], each[0]), default=(None, 0))
    assert commonest.top == expected and commonest.num == len(scores)


@given(st.integers(0, 2**20), st.integers(300, 900), st.integers(0, 3000))
def test_a_score_that_most_have_is_found_among_any_number_of_others(
    seed: int, others: int, same: int
) -> None:
    commonest, total = CommonestScore(), others + same
    scores = [1.0 + n / 1000 for n in range(others)] + [7.0] * same
    for place in torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist():
        commonest.add(scores[place])
    assert len(commonest._counts) <= 256, "its memory does not grow"
    score, count = commonest.top
    assert count <= max(same, 1)
    if same > total / 2:
        assert score == 7.0 and same - total / 257 <= count


def test_a_yield_below_need_is_told_and_one_at_need_is_not(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    watch.paired(0, Yield(visits=64, pairs=4), 200)  # heading for 4 * 4/64 = 25 %
    assert kinds(tmp_path) == []
    watch.paired(1, Yield(visits=128, pairs=7), 200)
    assert kinds(tmp_path) == [("01-own", "pair_yield", 2)]


def test_an_alarm_that_stops_says_how_to_go_on_and_is_written_first(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, tie_rate=Limit(0.5, "stop"))
    with pytest.raises(StopRun, match=r"all candidates have the same score.*--set alarms\.tie_rate=off"):
        watch.judged(0, *UNHEALTHY["tie_rate"])
    line = next(line for line in stored_alarms(tmp_path) if line["kind"] == "tie_rate")
    assert line["then"] == "stop" and line["value"] == 1.0 and line["threshold"] == 0.5


def test_numbers_add_up_over_shards_and_small_ones_say_nothing(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    watch.judged(0, *HEALTHY[0])
    for number in range(40):
        watch.judged(number + 1, *visit(number + 1, (float(number % 7),) * 3))
    # Of 32 visits, the first of them with different scores, 31 tie: in the 32nd shard enough are counted.
    assert kinds(tmp_path) == [("01-own", "tie_rate", 32)]


def test_a_second_search_of_a_stage_is_counted_anew(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, never_ends=None, tie_rate=None, score_collapse=None)
    watch.judged(0, *shard([visit(n, (None, None)) for n in range(15)]))  # 60 votes, none with a score
    watch.judged(0, *shard(HEALTHY))
    watch.judged(1, *shard([visit(n, (None, None)) for n in range(15)]))
    assert kinds(tmp_path) == [], "180 of 240 votes of the second search have a score"


@pytest.mark.parametrize(("tokens", "gives"), [(6, []), (7, [("02-own", "length_growth", 1)])])
def test_length_is_compared_with_the_stage_of_the_kind_before(
    tmp_path: Path, tokens: int, gives: list[tuple[str, str, int]]
) -> None:
    short = shard([visit(n, (1.0, 2.0), texts=("abc", "def")) for n in range(32)])
    long = shard([visit(n, (1.0, 2.0), texts=("a" * tokens, "b" * tokens)) for n in range(32)])
    first = watch_of(tmp_path)
    first.judged(0, *short)
    first.close()
    assert json.loads((tmp_path / "stages" / "01-own" / "watched.json").read_text()) == {
        "kind": "self_reward",
        "candidates": 64,
        "tokens": 192,
        "first": {},
    }
    second = watch_of(tmp_path, "02-own")
    second.judged(0, *long)
    assert kinds(tmp_path) == gives


def test_length_is_compared_with_no_stage_of_another_kind_or_too_few_candidates(tmp_path: Path) -> None:
    for stage, kind, num in (
        ("01-a", "self_reward", 10),
        ("02-b", "online", 40),
        ("11-c", "self_reward", 40),
    ):
        folder = tmp_path / "stages" / stage
        folder.mkdir(parents=True)
        watch = Watch(LIMITS, folder, kind)
        watch.judged(0, *shard([visit(n, (1.0, 2.0), texts=("a", "b")) for n in range(num)]))
        watch.close()
    tenth = watch_of(tmp_path, "10-own")
    tenth.judged(0, *shard([visit(n, (1.0, 2.0), texts=("a" * 9, "b" * 9)) for n in range(40)]))
    assert kinds(tmp_path) == []


def test_a_chosen_log_probability_is_compared_with_the_first_logged_step(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    for step, value in ((10, -1.0), (20, -1.9), (30, -2.1), (40, -9.0)):
        watch.logged(step, {"loss": 0.5, "chosen_logprob_per_token": value})
    watch.logged(50, {"valid_loss": 0.5})
    assert kinds(tmp_path) == [("01-own", "chosen_logprob", 30)]
    assert "from -1.000 at the first logged step to -2.100" in stored_alarms(tmp_path)[0]["text"]


def test_each_training_of_a_stage_has_a_first_step_of_its_own(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    watch.logged(5, {"chosen_logprob_per_token": -1.0}, training="steps")
    watch.logged(8, {"chosen_logprob_per_token": -2.5}, training="steps-iteration-2")
    watch.logged(9, {"chosen_logprob_per_token": -3.0}, training="steps-iteration-2")
    assert kinds(tmp_path) == []


def test_a_training_gone_on_with_remembers_its_first_step_and_one_begun_anew_does_not(tmp_path: Path) -> None:
    watch_of(tmp_path).logged(10, {"chosen_logprob_per_token": -1.0})
    resumed = watch_of(tmp_path)
    resumed.logged(20, {"chosen_logprob_per_token": -2.5})
    assert kinds(tmp_path) == [("01-own", "chosen_logprob", 20)]
    again = watch_of(tmp_path)
    again.logged(30, {"chosen_logprob_per_token": -2.6})
    assert kinds(tmp_path) == [("01-own", "chosen_logprob", 20)], "it was said at step 20 and is not doubled"
    anew = watch_of(tmp_path)
    anew.logged(10, {"chosen_logprob_per_token": -4.0})
    anew.logged(20, {"chosen_logprob_per_token": -4.5})
    stored = json.loads((tmp_path / "stages" / "01-own" / "watched.json").read_text())
    assert stored["first"] == {"steps": {"step": 10, "chosen_logprob_per_token": -4.0}}


@pytest.mark.parametrize("cut", range(4))
def test_a_stage_cut_off_after_any_shard_ends_with_the_files_of_one_that_was_not(
    tmp_path: Path, cut: int
) -> None:
    parts = [shard(HEALTHY), UNHEALTHY["tie_rate"], UNHEALTHY["never_ends"], UNHEALTHY["duplicates"]]
    low = {kind: Limit(0.15, "warn") for kind in ("tie_rate", "never_ends", "duplicates")}

    def go(run: Path, num: int) -> Watch:
        watch = watch_of(run, **low)
        for number, part in enumerate(parts[:num]):
            watch.judged(number, *part)
            watch.paired(number, Yield(visits=40 * (number + 1), pairs=number), 100)
        return watch

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    go(whole, 4).close()
    go(resumed, cut)
    go(resumed, 4).close()
    for name in ("alarms.jsonl", "stages/01-own/watched.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    assert [kind for _, kind, _ in kinds(whole)] == ["pair_yield", "tie_rate", "never_ends", "duplicates"]


def test_what_is_turned_off_or_no_longer_so_is_taken_out_and_other_stages_are_left(tmp_path: Path) -> None:
    other = watch_of(tmp_path, "01-own")
    other.judged(0, *UNHEALTHY["tie_rate"])
    before = kinds(tmp_path)
    stopped = watch_of(tmp_path, "02-own", tie_rate=Limit(0.5, "stop"))
    with pytest.raises(StopRun):
        stopped.judged(0, *UNHEALTHY["tie_rate"])
    resumed = watch_of(tmp_path, "02-own", tie_rate=None)
    resumed.judged(0, *UNHEALTHY["tie_rate"])
    assert [line for line in kinds(tmp_path) if line[0] == "01-own"] == before
    assert [line for line in kinds(tmp_path) if line[1] == "tie_rate"] == [("01-own", "tie_rate", 1)]


def test_a_loss_that_is_not_finite_stops_whatever_the_plan_says(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, **dict.fromkeys(RULES))
    with pytest.raises(StopRun, match=r"the loss of step 3 is not finite \(nan\).*learning rate \(0\.5\)"):
        watch.logged(3, {"loss": math.nan, "learning_rate": 0.5})
    (line,) = stored_alarms(tmp_path)
    assert (line["kind"], line["at"], line["value"], line["then"]) == ("not_finite", 3, None, "stop")


def test_the_batch_of_a_gradient_that_is_not_finite_is_saved_with_its_token_ids(tmp_path: Path) -> None:
    pair = PairExample(7, example_from_parts((1, 2), (3, 4)), example_from_parts((1, 2), (5,)), margin=2.0)
    replayed = example_from_parts((8,), (9, 9))
    watch = watch_of(tmp_path)
    with pytest.raises(StopRun) as raised:
        watch.not_finite(12, "gradient", math.inf, rate=1e-3, batch={"pairs": [pair], "replay": [replayed]})
    base = tmp_path / "stages" / "01-own" / "not-finite" / "steps-000012"
    assert f"{base}.safetensors" in str(raised.value) and "the gradient of step 12" in str(raised.value)
    tensors = load_file(f"{base}.safetensors")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "pairs.0.chosen.ids": [1, 2, 3, 4],
        "pairs.0.chosen.is_target": [False, False, True, True],
        "pairs.0.rejected.ids": [1, 2, 5],
        "pairs.0.rejected.is_target": [False, False, True],
        "replay.0.ids": [8, 9, 9],
        "replay.0.is_target": [False, True, True],
    }
    facts = json.loads(Path(f"{base}.json").read_text())
    assert (facts["stage"], facts["step"], facts["value"], facts["learning_rate"]) == (
        "01-own", 12, "inf", 1e-3,
    )  # fmt: skip
    entry = facts["items"]["pairs"][0]
    assert (entry["index"], entry["chosen"]) == (7, {"tokens": 4, "targets": 2})


def test_a_watch_without_a_folder_is_silent_but_for_numbers_that_are_not_finite() -> None:
    watch = Watch()
    watch.begin()
    watch.judged(0, *UNHEALTHY["tie_rate"])
    watch.paired(0, Yield(visits=900), 10)
    watch.logged(1, {"loss": 1.0, "chosen_logprob_per_token": -1.0})
    watch.logged(2, {"loss": 1.0, "chosen_logprob_per_token": -9.0})
    watch.close()
    with pytest.raises(StopRun):
        watch.logged(3, {"loss": math.inf})


def test_a_log_with_a_broken_line_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    log = AlarmLog(tmp_path)
    log.record(Alarm("tie_rate", "01-own", "shard", 1, 1.0, 0.8, "warn", "text"))
    with (tmp_path / "alarms.jsonl").open("a", encoding="utf-8") as file:
        file.write('[1]\n{"kind": "ti')
    assert [line["kind"] for line in stored_alarms(tmp_path)] == ["tie_rate"]
    assert stored_alarms(tmp_path / "nowhere") == []

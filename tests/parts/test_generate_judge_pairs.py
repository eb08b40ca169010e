"""Sampling, judging and pairing in files: what a run's stages would store, gone on with after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from self_rewarding_lm_pytorch.data.columns import pair_of
from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.parts import judge as judge_part
from self_rewarding_lm_pytorch.parts.generate import Generated, Generation, generate
from self_rewarding_lm_pytorch.parts.judge import judge
from self_rewarding_lm_pytorch.parts.judges import ModelSeat, RewardSeat, Seat
from self_rewarding_lm_pytorch.parts.models import environment_of, named_model
from self_rewarding_lm_pytorch.parts.pairs import pairs
from self_rewarding_lm_pytorch.preferences.pairing import PairingRule
from self_rewarding_lm_pytorch.progress import Phase, Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair
from self_rewarding_lm_pytorch.stages.chat_settings import ChatSettings
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.pairing import PairingSettings
from self_rewarding_lm_pytorch.stages.sampling import CandidateSettings, SamplingSettings
from self_rewarding_lm_pytorch.text import UNFINISHED, Reasoning
from tests.parts.worlds import PROMPTS, QUIET, environment, rows_of, write_model
from tests.test_resume import die, in_a_fork, needs_fork


def sampled(
    model: str,
    out: Path,
    *,
    seed: tuple[int | str, ...] = (0, 0, "alone"),
    shard_size: int = 64,
    **changes: Any,
) -> Generated:
    what = {
        "num": 3,
        "sampling": SamplingSettings(temperature=1.0, top_p=0.9),
        "max_new_tokens": 6,
        **changes,
    }
    named, env = named_model(model, dtype="auto"), environment(Path(model), shard_size=shard_size)
    return generate(env, named, Generation("prompts.txt", seed=seed, **what), out)


def own_seat(model: str, *, seed: tuple[int | str, ...] = (0, 0, "alone"), **settings: Any) -> Seat:
    given = {"votes": 2, "unparsed": "force", "max_new_tokens": 6, **settings}
    return ModelSeat.of(
        environment(Path(model)), named_model(model, dtype="auto"), JudgeSettings(**given), seed
    )


def place(record: Any) -> tuple[int, int]:
    return (record.prompt_index, getattr(record, "index", getattr(record, "candidate_index", 0)))


def stored(stage: Path, kind: type) -> list[Any]:
    return sorted(ShardStore(stage).read_all(kind), key=place)


def assert_same_pairs(rows: list[dict[str, Any]], stage: Path) -> None:
    """But for pairs with an empty response, which a stage trains on and no file of pairs can have."""
    expected = [pair for pair in stored(stage, PreferencePair) if pair.chosen and pair.rejected]
    assert expected, "a stage without pairs would compare nothing"
    assert rows == [
        {
            "prompt": pair.prompt,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "chosen_score": pair.chosen_score,
            "rejected_score": pair.rejected_score,
            "prompt_index": pair.prompt_index,
            "chosen_candidate": pair.chosen_index,
            "rejected_candidate": pair.rejected_index,
        }
        for pair in expected
    ]


def test_the_three_commands_give_what_a_self_reward_stage_stored(
    there: Path, finished: Path, tmp_path: Path
) -> None:
    stage, start, seed = finished / "stages/02-own", "runs/tiny:seed", (3, 2, "own")
    sampled(start, tmp_path / "c.jsonl", seed=seed, with_ids=True)
    rows = rows_of(tmp_path / "c.jsonl")
    expected = stored(stage, Candidate)
    assert [(tuple(r["ids"]), r["response"], r["key"], r["finish_reason"]) for r in rows] == [
        (c.ids, c.text, c.key, c.finish_reason) for c in expected
    ]
    judge(own_seat(start, seed=seed), str(tmp_path / "c.jsonl"), tmp_path / "j.jsonl", QUIET)
    judged = rows_of(tmp_path / "j.jsonl")
    assert [(r["score"], [v["text"] for v in r["votes"]]) for r in judged] == [
        (j.score, [vote.text for vote in j.votes]) for j in stored(stage, Judgment)
    ]
    made = pairs(str(tmp_path / "j.jsonl"), PairingSettings().rule(), tmp_path / "p.jsonl")
    assert_same_pairs(rows_of(tmp_path / "p.jsonl"), stage)
    summary = json.loads((finished / "summary.json").read_text())["stages"][1]["yield"]
    counts = made.counts.as_dict()
    empty = counts["skipped"].pop("an empty response, which data files cannot have", 0)
    assert {**counts, "pairs": counts["pairs"] + empty} == summary


def test_with_a_reward_and_length_control_they_give_what_an_external_reward_stage_stored(
    there: Path, finished: Path, tmp_path: Path
) -> None:
    stage, start = finished / "stages/03-outside", "runs/tiny:own"
    sampling = CandidateSettings(top_k=20)
    sampled(start, tmp_path / "c.jsonl", seed=(3, 3, "outside"), num=4, max_new_tokens=5, sampling=sampling)
    judge(
        RewardSeat("reward.py:variety", is_model=False),
        str(tmp_path / "c.jsonl"),
        tmp_path / "j.jsonl",
        QUIET,
    )
    made = pairs(
        str(tmp_path / "j.jsonl"), PairingSettings(min_margin=1, rho=0.3).rule(), tmp_path / "p.jsonl"
    )
    assert_same_pairs(rows_of(tmp_path / "p.jsonl"), stage)
    assert made.lengths == "tokens", "known by their number, without ids"
    plan = yaml.safe_load((finished / "plan.yaml").read_text())
    assert plan["stages"][2]["pairing"]["rho"] == 0.3


def test_another_seed_or_stage_draws_other_candidates(there: Path, tmp_path: Path) -> None:
    seeds: list[tuple[int | str, ...]] = [(0, 0, "alone"), (1, 0, "alone"), (0, 2, "own")]
    for number, seed in enumerate(seeds):
        sampled("tiny", tmp_path / f"{number}.jsonl", seed=seed)
    texts = [[row["response"] for row in rows_of(tmp_path / f"{n}.jsonl")] for n in range(3)]
    assert texts[0] != texts[1] != texts[2] != texts[0]


class Deadly(Reporter):
    """Kills the process once so many units of a phase are done."""

    def __init__(self, after: int) -> None:
        super().__init__(quiet=True)
        self._after = after

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Phase]:
        with super().phase(label, total, unit) as phase:
            advance = phase.advance

            def counted(count: int = 1, note: str = "") -> None:
                advance(count, note)
                if phase.done >= self._after:
                    die()

            phase.advance = counted  # type: ignore[method-assign]
            yield phase


@needs_fork
@pytest.mark.parametrize("after", [1, 7, 17])
def test_generate_killed_anywhere_goes_on_and_ends_the_same(after: int, there: Path, tmp_path: Path) -> None:
    what = Generation("prompts.txt", 3, SamplingSettings(temperature=1.0), 6, (0, 0, "alone"))
    named, out = named_model("tiny", dtype="auto"), tmp_path / "c.jsonl"

    def work(reporter: Reporter, file: Path = out) -> Generated:
        return generate(environment(Path("tiny"), shard_size=2, reporter=reporter), named, what, file)

    assert in_a_fork(lambda: work(Deadly(after))), "it was to be killed"
    assert not out.exists(), "a file that is there is whole"
    before = rows_of(tmp_path / "c.jsonl.partial.jsonl") if after > 6 else []
    assert len(before) == after // 6 * 6
    if before:
        with (tmp_path / "c.jsonl.partial.jsonl").open("a") as file:
            file.write('{"prompt_index": 99, "resp')  # a row that was cut off in the middle
    work(QUIET)
    work(QUIET, tmp_path / "unbroken.jsonl")
    assert out.read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()
    assert not (tmp_path / "c.jsonl.partial.jsonl").exists()


@needs_fork
def test_judge_killed_goes_on_with_the_judgments_it_had(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_part, "PROMPTS_AT_ONCE", 2)
    sampled("tiny", tmp_path / "c.jsonl")
    candidates, out = str(tmp_path / "c.jsonl"), tmp_path / "j.jsonl"
    assert in_a_fork(lambda: judge(own_seat("tiny"), candidates, out, Deadly(20)))
    partial = tmp_path / "j.jsonl.partial.jsonl"
    kept = partial.read_bytes()
    assert len(kept.splitlines()) == 6
    judge(own_seat("tiny"), candidates, out, QUIET)
    judge(own_seat("tiny"), candidates, tmp_path / "unbroken.jsonl", QUIET)
    assert out.read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()
    assert out.read_bytes().startswith(kept)


def test_a_finished_file_is_not_made_again(there: Path, tmp_path: Path) -> None:
    first = sampled("tiny", tmp_path / "c.jsonl")
    was = (tmp_path / "c.jsonl").stat().st_mtime_ns
    assert sampled("tiny", tmp_path / "c.jsonl") == first
    assert (tmp_path / "c.jsonl").stat().st_mtime_ns == was
    assert (first.prompts, first.candidates) == (6, 18)
    assert sum(first.finish_reasons.values()) == 18


@pytest.mark.parametrize(
    ("changes", "named"), [({"num": 2}, "num \\(3, now 2\\)"), ({"max_new_tokens": 5}, "max_new_tokens")]
)
def test_a_file_of_other_settings_is_refused_with_what_differs(
    changes: dict[str, Any], named: str, there: Path, tmp_path: Path
) -> None:
    sampled("tiny", tmp_path / "c.jsonl")
    before = (tmp_path / "c.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=f"begun with other settings: .*{named}"):
        sampled("tiny", tmp_path / "c.jsonl", **changes)
    assert (tmp_path / "c.jsonl").read_bytes() == before


def test_a_file_of_somebody_else_is_not_written_over(there: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("mine\n")
    with pytest.raises(ConfigError, match="is there already"):
        sampled("tiny", tmp_path / "c.jsonl")
    assert (tmp_path / "c.jsonl").read_text() == "mine\n"


def test_parquet_files_hold_the_same_rows(there: Path, tmp_path: Path) -> None:
    for ending in ("jsonl", "parquet"):
        file = tmp_path / f"c.{ending}"
        sampled("tiny", file, with_ids=True)
        judge(own_seat("tiny"), str(file), tmp_path / f"j.{ending}", QUIET)
        pairs(str(tmp_path / f"j.{ending}"), PairingRule(), tmp_path / f"p.{ending}")
    for name in ("c", "j", "p"):
        assert pq.read_table(tmp_path / f"{name}.parquet").to_pylist() == rows_of(tmp_path / f"{name}.jsonl")


def test_conversations_are_answered_judged_and_paired_as_conversations(there: Path, tmp_path: Path) -> None:
    from tests.parts.worlds import CHATML

    write_model(tmp_path / "chatty", template=CHATML)
    said = [[("user", f"hi {i}"), ("assistant", "yes"), ("user", "why?")] for i in range(3)]
    talks = [[{"role": role, "content": text} for role, text in talk] for talk in said]
    data = tmp_path / "talks.jsonl"
    data.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    named, env = named_model(str(tmp_path / "chatty"), dtype="auto"), environment(tmp_path / "chatty")
    what = Generation(str(data), 4, SamplingSettings(temperature=1.0), 6, (0, 0, "alone"))
    generate(env, named, what, tmp_path / "c.parquet")
    assert [row["prompt"] for row in read_rows(tmp_path / "c.parquet")][::4] == talks
    judge(
        RewardSeat("reward.py:variety", is_model=False),
        str(tmp_path / "c.parquet"),
        tmp_path / "j.jsonl",
        QUIET,
    )
    pairs(str(tmp_path / "j.jsonl"), PairingRule(), tmp_path / "p.jsonl")
    for number, row in enumerate(rows_of(tmp_path / "p.jsonl")):
        conversation, chosen, rejected = pair_of(row, number)
        assert [turn.content for turn in conversation] == [
            turn["content"] for turn in talks[row["prompt_index"]]
        ]
        assert chosen != rejected
        assert row["chosen"] == [{"role": "assistant", "content": chosen}]


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_of_others_are_judged_and_equal_prompts_are_one(there: Path, tmp_path: Path) -> None:
    rows = [
        {"instruction": "a?", "output": "xyz"},
        {"instruction": "b?", "output": "x"},
        {"instruction": "a?", "output": "xx"},
    ]
    data = written(tmp_path / "rows.jsonl", rows)
    found = judge(RewardSeat("reward.py:variety", is_model=False), data, tmp_path / "j.jsonl", QUIET)
    assert found.mean_score == pytest.approx(5 / 3)
    judged = rows_of(tmp_path / "j.jsonl")
    assert [(r["prompt"], r["prompt_index"], r["candidate"], r["score"]) for r in judged] == [
        ("a?", 0, 0, 3.0),
        ("a?", 0, 1, 1.0),
        ("b?", 1, 0, 1.0),
    ]
    made = pairs(str(tmp_path / "j.jsonl"), PairingRule(), tmp_path / "p.jsonl")
    assert made.counts.skipped == {"fewer than two usable candidates": 1}
    assert [(r["chosen"], r["rejected"]) for r in rows_of(tmp_path / "p.jsonl")] == [("xyz", "xx")]


def test_a_response_without_a_score_keeps_its_reason(there: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt_index": 0, "candidate": 0, "prompt": "a?", "response": ""},
        {"prompt_index": 0, "candidate": 1, "prompt": "a?", "response": "ab"},
    ]
    data = written(tmp_path / "rows.jsonl", rows)
    found = judge(RewardSeat("reward.py:variety", is_model=False), data, tmp_path / "j.jsonl", QUIET)
    assert found.unscored == {"the reward is None": 1}
    assert [row["score"] for row in rows_of(tmp_path / "j.jsonl")] == [None, 2.0]
    with pytest.raises(DataError, match="no preference pair came out of") as error:
        pairs(str(tmp_path / "j.jsonl"), PairingRule(), tmp_path / "p.jsonl")
    assert "fewer than two usable candidates (no score)" in str(error.value)
    assert "the reward is None" in str(error.value)
    assert not (tmp_path / "p.jsonl").exists()
    assert json.loads((tmp_path / "p.jsonl.skipped.json").read_text())["prompts"][0]["prompt"] == "a?"


def judged_rows(*scores: Any, **columns: Any) -> list[dict[str, Any]]:
    return [
        {"prompt_index": 0, "candidate": i, "prompt": "a?", "response": f"r{i}", "score": score, **columns}
        for i, score in enumerate(scores)
    ]


def test_what_no_pair_file_can_hold_is_skipped_and_counted(tmp_path: Path) -> None:
    rows = judged_rows(1, 2) + [
        {**row, "prompt_index": index, "prompt": f"{index}?", "response": text}
        for index, texts in ((1, ("", "x")), (2, ("a\0", "x")))
        for row, text in zip(judged_rows(1, 2), texts, strict=True)
    ]
    made = pairs(written(tmp_path / "j.jsonl", rows), PairingRule(), tmp_path / "p.jsonl")
    assert made.counts.skipped == {
        "an empty response, which data files cannot have": 1,
        "a NUL character in a response": 1,
    }
    assert len(rows_of(tmp_path / "p.jsonl")) == made.counts.pairs == 1
    assert made.counts.visits == 3


def test_ties_margins_and_unfinished_responses_are_told_apart(tmp_path: Path) -> None:
    tied = written(tmp_path / "t.jsonl", judged_rows(2, 2))
    near = written(tmp_path / "n.jsonl", judged_rows(2, 2.5))
    cut = written(tmp_path / "u.jsonl", judged_rows(1, 4, finish_reason="length"))
    for data, settings, reason in (
        (tied, PairingSettings(), "tie"),
        (near, PairingSettings(min_margin=1), "margin too small"),
        (cut, PairingSettings(unfinished="drop"), r"fewer than two usable candidates \(unfinished\)"),
    ):
        with pytest.raises(DataError, match=f"no pair: {reason}  +1"):
            pairs(data, settings.rule(), tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (judged_rows("high", 2), "has the score 'high'"),
        (judged_rows(True, 2), "has the score True"),
        (judged_rows(1) + judged_rows(1), "holds candidate 0 of prompt 0 twice"),
        (judged_rows(1, 2, ids="x"), "they must be a list of whole numbers"),
        (judged_rows(1, 2, finish_reason="full"), "known: eos, stop, length"),
        (judged_rows(1, 2, votes=[{"status": "odd"}]), "vote 0 has the status 'odd'"),
        ([{k: v for k, v in row.items() if k != "score"} for row in judged_rows(1, 2)], "has no score"),
        ([*judged_rows(1), {"prompt": "b?", "response": "x", "score": 1}], "unlike the rows before it"),
        ([*judged_rows(1), {**judged_rows(1, 2)[1], "prompt": "b?"}], "is said of two prompts"),
        ([{**judged_rows(1)[0], "prompt_index": "0"}], "both must be whole numbers"),
        ([{**judged_rows(1)[0], "response": None}], "it must be text"),
    ],
)
def test_rows_that_cannot_be_paired_are_named(
    rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    data = written(tmp_path / "j.jsonl", rows)
    with pytest.raises(DataError, match=message):
        pairs(data, PairingRule(), tmp_path / "p.jsonl")
    assert not (tmp_path / "p.jsonl").exists()


def test_unfinished_responses_cannot_be_dropped_where_no_row_says_how_it_ended(tmp_path: Path) -> None:
    data = written(tmp_path / "j.jsonl", judged_rows(1, 2))
    with pytest.raises(DataError, match="do not say how they ended"):
        pairs(data, PairingSettings(unfinished="drop").rule(), tmp_path / "p.jsonl")


def test_lengths_are_characters_where_tokens_are_not_known(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a?", "response": text, "score": score}
        for text, score in (
            ("long but best", 5),
            ("brief", 4.9),
            ("a bad one", 1),
            ("a worse one, longer", 1.1),
        )
    ]
    data = written(tmp_path / "j.jsonl", rows)
    made = pairs(data, PairingSettings(rho=0.1).rule(), tmp_path / "p.jsonl")
    assert made.lengths == "characters"
    row = rows_of(tmp_path / "p.jsonl")[0]
    assert (row["chosen"], row["rejected"]) == ("brief", "a worse one, longer")


def test_a_judge_prompt_over_its_limit_is_left_unscored_and_said(
    tmp_path: Path, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = judged_rows(0, 0)
    rows[1]["response"] = "too long " * 150
    data = written(tmp_path / "c.jsonl", rows)
    found = judge(own_seat("tiny"), data, tmp_path / "j.jsonl", Reporter())
    assert found.unscored == {"judge prompt over its limit": 1}
    assert "What does not fit gets no score" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".json", ".csv", ""])
def test_only_endings_that_our_reader_knows_are_written(ending: str, there: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.jsonl"):
        sampled("tiny", tmp_path / f"c{ending}")


def test_two_that_write_the_same_file_are_found_out(there: Path, tmp_path: Path) -> None:
    from self_rewarding_lm_pytorch.parts.row_file import RowFile

    one, other = (RowFile(tmp_path / "x.jsonl", {"a": 1}) for _ in range(2))
    one.begin([1, 2])
    other.begin([1, 2])
    one.add([{"n": 0}])
    with pytest.raises(DataError, match="another process writes to it too"):
        other.add([{"n": 0}])


def test_lines_that_others_would_break_are_escaped(tmp_path: Path) -> None:
    from self_rewarding_lm_pytorch.data.files import json_line

    text = "a\u2028b\x85c\nd"
    assert len(json_line({"t": text}).splitlines()) == 1
    assert json.loads(json_line({"t": text})) == {"t": text}


def test_prompts_are_all_there(there: Path, tmp_path: Path) -> None:
    sampled("tiny", tmp_path / "c.jsonl", limit=4)
    rows = rows_of(tmp_path / "c.jsonl")
    assert [row["prompt"] for row in rows] == [prompt for prompt in PROMPTS[:4] for _ in range(3)]
    assert [(row["prompt_index"], row["candidate"]) for row in rows] == [(i // 3, i % 3) for i in range(12)]


def test_pairs_are_not_written_over_what_they_are_made_of(tmp_path: Path) -> None:
    data = written(tmp_path / "j.jsonl", judged_rows(1, 2))
    with pytest.raises(ConfigError, match="is what is read"):
        pairs(data, PairingRule(), tmp_path / "j.jsonl")
    assert len(rows_of(tmp_path / "j.jsonl")) == 2


def test_a_prompt_that_leaves_no_room_costs_nobody_elses_score(there: Path, tmp_path: Path) -> None:
    rows = judged_rows(0, 0)
    rows.append({"prompt_index": 1, "candidate": 0, "prompt": "long? " * 300, "response": "x", "score": 0})
    data = written(tmp_path / "c.jsonl", rows)
    found = judge(own_seat("tiny"), data, tmp_path / "j.jsonl", QUIET)
    assert (found.scored, found.unscored) == (2, {"judge prompt over its limit": 1})


def test_reasoning_is_kept_from_the_judge_where_a_run_keeps_it(there: Path, tmp_path: Path) -> None:
    named = named_model("tiny", dtype="auto")
    chat = ChatSettings.model_validate({"reasoning": {"begin": "<think>", "end": "</think>"}})
    thinking = replace(named, plan=named.plan.model_copy(update={"chat": chat}))
    env = environment_of(thinking, device="cpu", seed=0, reporter=QUIET)
    rows = judged_rows(0, 0, 0)
    for row, text in zip(rows, ("<think>hm</think>so", "so", "<think>hm"), strict=True):
        row["response"] = text
    settings = JudgeSettings(mode="expected")
    seat = ModelSeat.of(env, thinking, settings, (0, 0, "alone"))
    judge(seat, written(tmp_path / "c.jsonl", rows), tmp_path / "j.jsonl", QUIET)
    scores = [row["score"] for row in rows_of(tmp_path / "j.jsonl")]
    assert scores[0] == scores[1]
    assert scores[2] is None


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)


def shown_to_a_reward(folder: Path, rows: list[dict[str, Any]], reasoning: Reasoning | None) -> Any:
    """What a reward function gets of the rows, and their scores."""
    (folder / "seen.py").write_text(
        "import json\n"
        "def f(prompts, responses):\n"
        f"    json.dump([prompts, responses], open({str(folder / 'seen.json')!r}, 'w'))\n"
        "    return [1.0] * len(prompts)\n"
    )
    reporter = Listener(quiet=True)
    seat = RewardSeat(f"{folder / 'seen.py'}:f", is_model=False)
    judge(seat, written(folder / "c.jsonl", rows), folder / "j.jsonl", reporter, reasoning=reasoning)
    scores = [(row["score"], row["reason"]) for row in rows_of(folder / "j.jsonl")]
    return *json.loads((folder / "seen.json").read_text()), scores, reporter.heard


def test_a_reward_is_shown_no_reasoning_where_the_marks_are_given(tmp_path: Path) -> None:
    earlier = {"role": "assistant", "content": "<think>one</think>a"}
    asked = [{"role": "user", "content": "q?"}, earlier, {"role": "user", "content": "why?"}]
    rows = [{"prompt": asked, "response": text} for text in ("<think>hm</think> so", "so", "<think>hm")]
    for number, row in enumerate(rows):
        row |= {"prompt_index": 0, "candidate": number}
    prompts, responses, scores, said = shown_to_a_reward(tmp_path, rows, Reasoning())
    assert responses == ["so", "so"]
    assert set(prompts) == {"User: q?\n\nAssistant: a\n\nUser: why?"}
    assert scores == [(1.0, ""), (1.0, ""), (None, UNFINISHED)]
    assert not any("--reasoning" in line for line in said)
    assert rows_of(tmp_path / "j.jsonl")[0]["response"] == "<think>hm</think> so", "what was written stays"


def test_that_a_judge_is_shown_reasoning_is_said(tmp_path: Path) -> None:
    rows = [{"prompt": "q?", "response": text} for text in ("<think>hm</think> so", "so")]
    _, responses, _, said = shown_to_a_reward(tmp_path, rows, None)
    assert responses == ["<think>hm</think> so", "so"]
    (line,) = (line for line in said if "--reasoning" in line)
    assert line.startswith("1 of 2 responses hold </think>")


def test_prompts_without_room_are_named_or_left_out_and_counted(there: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "narrow", context=40)
    (tmp_path / "prompts.txt").write_text(f"short?\n{'long ' * 20}\nwhy?\n{'middling ' * 4}\n")
    named, env = named_model(str(tmp_path / "narrow"), dtype="auto"), environment(tmp_path / "narrow")
    what = Generation(str(tmp_path / "prompts.txt"), 2, SamplingSettings(), 6, (0, 0, "alone"))
    with pytest.raises(
        ConfigError, match=r"1 of 4 prompts leave no room .* the first is prompt 1, 100 tokens"
    ):
        generate(env, named, what, tmp_path / "c.jsonl")
    found = generate(env, named, replace(what, skip_long=True), tmp_path / "c.jsonl")
    assert (found.prompts, found.skipped_prompts, found.candidates) == (2, 2, 4)
    rows = rows_of(tmp_path / "c.jsonl")
    assert [(row["prompt_index"], row["prompt"]) for row in rows[::2]] == [(0, "short?"), (2, "why?")]
    with pytest.raises(ConfigError, match=r"4 of 4 prompts .* lower --max-new-tokens"):
        generate(env, named, replace(what, skip_long=True, max_new_tokens=39), tmp_path / "d.jsonl")

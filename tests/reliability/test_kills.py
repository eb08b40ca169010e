"""A few of the kills of `python -m tests.reliability.kills`, and that it sees runs that are not the same."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.reliability.children import Instant, Story, followed, forked
from tests.reliability.fingerprints import differences, fingerprint
from tests.reliability.instants import after, drawn, shorter, units_of
from tests.reliability.killing import Case, Kill, Killer, last_line, warm_up
from tests.reliability.kills import CASES, PER_KIND, QUICK, SEED, table_row
from tests.reliability.moments import Moment
from tests.reliability.worlds import plan

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")


@pytest.fixture(scope="module")
def killer(tmp_path_factory: Any) -> Killer:
    return Killer(tmp_path_factory.mktemp("runs"), SEED)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any) -> Path:
    """A run that nobody killed."""
    warm_up()
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert not followed(forked(plan("judged", folder))).was_killed
    return folder


@pytest.mark.parametrize("case", QUICK, ids=lambda case: f"{case.kind} in {case.world}")
def test_a_run_killed_from_outside_at_a_random_instant_ends_as_if_it_had_not_been(
    case: Case, killer: Killer
) -> None:
    kills, _ = killer.kills(QUICK.index(case), case)
    assert kills, "every run was done before it could be killed"
    rows = "\n".join(table_row(number, kill) for number, kill in enumerate(kills, 1))
    assert all(kill.is_identical for kill in kills), f"\n{rows}"


def test_the_kills_are_enough_of_each_kind_and_some_come_in_a_row() -> None:
    kinds = [case.kind for case in CASES]
    assert len(CASES) >= 30
    assert all(kinds.count(kind) >= PER_KIND for kind in kinds)
    assert {case.again for case in CASES} == {0, 1, 2}


def _spoil_weights(run: Path) -> None:
    file = next(run.glob("stages/02-own/checkpoint/*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def _spoil_rows(run: Path) -> None:
    file = run / "stages" / "02-own" / "pairs" / "00000.parquet"
    table = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
    pq.write_table(table.slice(1), file)


def _spoil_skipped(run: Path) -> None:
    next(run.glob("stages/*/skipped.json")).write_text("{}")


def _spoil_summary(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["stages"][1]["tokens_generated"] += 1
    (run / "summary.json").write_text(json.dumps(summary))


def _spoil_metrics(run: Path) -> None:
    file = run / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


def _spoil_cards(run: Path) -> None:
    next(run.glob("report_cards/*.json")).write_text("{}")


def _spoil_files(run: Path) -> None:
    (run / "stages" / "02-own" / ".00000.parquet.tmp").touch()


@pytest.mark.parametrize(
    "spoil",
    [
        _spoil_weights,
        _spoil_rows,
        _spoil_skipped,
        _spoil_summary,
        _spoil_metrics,
        _spoil_cards,
        _spoil_files,
    ],
)
def test_a_run_that_is_not_the_same_is_seen(
    spoil: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    other = tmp_path / "run"
    shutil.copytree(finished, other)
    assert not differences(fingerprint(other), fingerprint(finished))
    spoil(other)
    part = spoil.__name__.removeprefix("_spoil_")
    assert differences(fingerprint(other), fingerprint(finished)) == [part]


def test_what_tells_the_time_does_not_count(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(finished, other)
    summary = json.loads((other / "summary.json").read_text())
    summary["stages"][0]["train_seconds"] += 5.0
    (other / "summary.json").write_text(json.dumps(summary))
    lines = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["time"] += 5.0
        line["tokens_per_second"] *= 2
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not differences(fingerprint(other), fingerprint(finished))


def test_a_kill_comes_once_the_unit_that_was_drawn_has_begun(killer: Killer, tmp_path: Path) -> None:
    unit = drawn(killer.uninterrupted("play").units, "checkpoint", "", random.Random(0))
    story = followed(forked(plan("play", tmp_path / "run")), Instant(unit.what, unit.number, 0.0))
    assert story.was_killed and story.was_cut_off
    assert [moment.what for moment in story.moments].count(unit.what) == unit.number
    assert not (tmp_path / "run" / "summary.json").exists()


def _moment(at: float, *doing: str, stage_kind: str = "self_reward") -> Moment:
    return Moment(at, "own", stage_kind, doing)


def test_units_are_told_apart_by_name_and_number_and_last_until_the_next() -> None:
    moments = [_moment(1.0, "training 0"), _moment(1.5, "writing manifest.json"), _moment(2.0, "training 0")]
    units = units_of(Story(moments, 4.0, was_killed=False))
    assert [(unit.what, unit.number, unit.seconds) for unit in units] == [
        ("own: training 0", 1, 0.5),
        ("own: writing manifest.json", 1, 0.5),
        ("own: training 0", 2, 2.0),
    ]
    assert [unit.number for unit in after(units, units[1])] == [1, 1]
    assert shorter(units, [replace(units[2], seconds=0.25)])[2].seconds == 0.25
    instants = [units[2].instant(random.Random(number)) for number in range(50)]
    assert all(0 <= instant.delay <= 2.0 and instant.number == 2 for instant in instants)


@pytest.mark.parametrize(
    ("moment", "kind"),
    [
        (_moment(0, "shard 1: answers 3"), "generation"),
        (_moment(0, "shard 1: votes 3"), "judging"),
        (_moment(0, "after writing stages/02-own/judgments/00000.parquet"), "pairing"),
        (_moment(0, "writing stages/02-own/pairs/00000.parquet"), "pairing"),
        (_moment(0, "reference log-probs 3"), "reference"),
        (_moment(0, "training 3"), "training"),
        (_moment(0, "training 3", "early stopping"), "early stopping"),
        (_moment(0, "training 3", "writing stages/02-own/state/train/step-000003"), "training state"),
        (_moment(0, "writing stages/02-own/checkpoint"), "checkpoint"),
        (_moment(0, "training 3", stage_kind="spin"), "spin"),
        (_moment(0, "opponent's answers, iteration 1 0", stage_kind="spin"), "spin"),
        (
            _moment(0, "training 0", "writing stages/01-live/judgments/00000.parquet", stage_kind="online"),
            "online",
        ),
        (_moment(0, "report card of own 3"), "report card"),
        (_moment(0, "writing manifest.json"), "bookkeeping"),
        (_moment(0, "after training 6"), "between"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_running_is_named_by_its_kind(moment: Moment, kind: str) -> None:
    assert moment.kind == kind


def test_the_last_line_counts_the_kills_and_a_difference_is_named_in_its_row() -> None:
    same = Kill("judged", "training", "own: training 3", 4.0, 1.5, was_killed_again=False)
    other = Kill("judged", "judging", "own: votes", 4.0, 1.5, was_killed_again=True, differs_in=("rows",))
    assert last_line([same, other, same]) == "kills: 3 identical: 2"
    assert "yes" in table_row(1, same) and "NO: rows" in table_row(2, other)

"""What two real processes agree on, how they divide work, and weights that each holds a half of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes.launch import start

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: Any) -> Found:
    """By rank."""
    folder: Path = tmp_path_factory.mktemp("found")
    child = start(["tests.processes.worker", str(folder)])
    said, _ = child.communicate(timeout=200)
    assert child.returncode == 0, said
    assert [(folder / f"left-{rank}").read_text() for rank in range(2)] == ["True"] * 2, "nobody ends within"
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


def test_all_processes_know_what_the_main_one_says_and_what_each_has(found: Found) -> None:
    for own in (each["agreements"] for each in found):
        assert own["agreed"] == "of 0"
        assert own["gathered"] == [0, 10]
        assert own["on main"] == 0
        assert own["sum"] == [3.0, 1.0]


def test_parts_are_rows_that_differ_by_one_at_the_most(found: Found) -> None:
    for own in (each["agreements"] for each in found):
        assert own["parts of 5"] == [[0, 1, 2], [3, 4]]
        assert own["parts of 1"] == [[0], []]


def test_one_process_writes_and_all_see_what_it_sees(found: Found) -> None:
    for own in (each["agreements"] for each in found):
        assert own["written"] == "written by 0"
        assert own["only main's"] == [True, False]


def test_what_fails_in_one_process_is_raised_in_all_with_its_reason(found: Found) -> None:
    first, second = (each["agreements"] for each in found)
    assert first["main fails"] == second["other fails"] == "DataError: item 3 is broken"
    assert second["main fails"] == "ProcessError: process 0 of this run failed: DataError: item 3 is broken"
    assert first["other fails"] == "ProcessError: process 1 of this run failed: DataError: item 3 is broken"
    assert first["writing fails"] == "DataError: item 3 is broken"
    assert "DataError: item 3 is broken" in second["writing fails"]


def test_apart_nobody_is_waited_for(found: Found) -> None:
    assert [each["agreements"]["apart"] for each in found] == [[0], [1]]


def test_requests_in_parts_give_the_tokens_of_all_requests(found: Found) -> None:
    for own in (each["divided"] for each in found):
        assert own["tokens are equal"]
        assert own["none"] == []
        assert own["progress"] == own["total"], "each sample and token is counted once"


def test_every_response_is_judged_once_and_a_visit_is_not_torn(found: Found) -> None:
    asked = [each["divided"]["asked"] for each in found]
    assert asked == [["p0 0", "p0 1", "p1 0", "p1 1"], ["p2 0", "p2 1"]]
    assert all(each["divided"]["scores are equal"] for each in found)


@pytest.mark.parametrize("kind", ["hugging face", "x-transformers"])
def test_each_process_holds_half_of_the_weights_and_trains_as_one_would(found: Found, kind: str) -> None:
    for own in (each[kind] for each in found):
        assert own["parts"] == ["DTensor"], "every parameter is in parts"
        assert 0.45 < own["share"] < 0.55
        assert own["left"] == 0, "the whole weights are not held beside them"
        assert own["norms"][0] == pytest.approx(own["norms"][1], rel=1e-5)
        # Two steps of float32 AdamW: the sign-like first step makes rounding of tiny gradients visible.
        assert max(own["inside"], own["after"]) < 2e-5
        assert own["logits"] < 1e-4

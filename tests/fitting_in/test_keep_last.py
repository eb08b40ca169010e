"""Old checkpoints go when the plan says so, and only those that nothing needs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.pipeline import around as around_stages
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.run_folder import cleaning
from self_rewarding_lm_pytorch.run_folder.cleaning import named_in_paths, old_checkpoints
from tests.cli.test_cli import Command, srlm
from tests.stages.worlds import QUIET, STAGES, plan, weights, without_seconds
from tests.test_resume import Deadly, die, in_a_fork, needs_fork

__all__ = ["srlm"]


def stages_of(*wanted: tuple[str, str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": name, **STAGES[kind], **changes} for name, kind, changes in wanted]


FOUR = (("a", "seed", {}), ("b", "given", {}), ("c", "text", {}), ("d", "seed", {}))


def four(folder: Path, **changes: Any) -> dict[str, Any]:
    return {**plan(folder), "stages": stages_of(*FOUR), **changes}


def checkpoints(folder: Path) -> list[str]:
    return [path.parent.name for path in sorted(folder.glob("stages/*/checkpoint"))]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def is_moved(path: Path) -> bool:
    return path.name == ".checkpoint.tmp" and path.exists()


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("run.lock")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return run(four(folder), reporter=QUIET), folder


@pytest.mark.parametrize("number", [1, 2, 9])
def test_the_last_so_many_stay_and_the_run_is_the_same(number: int, unbroken: Any, tmp_path: Path) -> None:
    summary, whole = unbroken
    folder = tmp_path / "run"
    assert without_seconds(run(four(folder, keep_last=number), reporter=QUIET)) == without_seconds(summary)
    assert checkpoints(folder) == ["01-a", "02-b", "03-c", "04-d"][-number:]
    assert weights(folder).items() <= weights(whole).items()
    noted = [stage.get("removed") for stage in manifest(folder)["stages"]]
    assert noted == [f"keep_last: {number}"] * max(0, 4 - number) + [None] * min(4, number)
    assert run(four(folder, keep_last=number), reporter=QUIET)["status"] == "completed", "it is finished"


def test_what_a_later_stage_starts_from_stays_until_that_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = four(folder, keep_last=1)
    settings["stages"][2]["start_from"] = "a"
    seen = []
    run(settings, reporter=QUIET, after_stage=lambda env, number, stage: seen.append(checkpoints(folder)))
    # As each stage ends, before room is made after it.
    assert seen == [["01-a"], ["01-a", "02-b"], ["01-a", "02-b", "03-c"], ["03-c", "04-d"]]
    assert checkpoints(folder) == ["04-d"]


def test_a_checkpoint_that_a_stage_to_come_names_by_its_path_stays(tmp_path: Path) -> None:
    known = {"stages": [{"name": "a"}, {"name": "b"}]}
    path = str(tmp_path / "run" / "stages" / "01-a" / "checkpoint")
    assert named_in_paths([None, {"judge": {"model": path}}], known) == {"a"}
    assert named_in_paths([{"judge": {"model": "stages/02-b/checkpoint"}, "x": [path]}], known) == {"a", "b"}
    assert named_in_paths([{"kind": "a", "data": "01-a.jsonl"}], known) == set()


@needs_fork
@pytest.mark.parametrize("place", ["noted", "moved", "2. b", "training", "4. d"])
def test_a_run_killed_around_a_removal_ends_the_same(place: str, unbroken: Any, tmp_path: Path) -> None:
    summary, whole = unbroken
    folder = tmp_path / "run"
    settings = four(folder, keep_last=1)

    def killed() -> None:
        if place == "noted":
            around_stages.remove = lambda found: die()
        if place == "moved":
            cleaning.shutil.rmtree = lambda path, **more: die() if is_moved(Path(path)) else None
        run(settings, reporter=Deadly(place, 3))

    assert in_a_fork(killed)
    assert without_seconds(run(settings, reporter=QUIET)) == without_seconds(summary)
    assert checkpoints(folder) == ["04-d"]
    assert weights(folder).items() <= weights(whole).items()


def test_intermediate_checkpoints_of_old_stages_go_with_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = four(folder, keep_last=1)
    for stage in settings["stages"]:
        stage["train"] = {**stage.get("train", {}), "checkpoint_every": 2}
    run(settings, reporter=QUIET)
    assert {path.parent.name for path in folder.glob("stages/*/steps")} == {"04-d"}


def test_of_a_run_under_way_what_is_ahead_decides(tmp_path: Path) -> None:
    """States as a manifest has them; folders as a run writes them."""

    def kept(states: list[str], keep_last: int, needed: set[str]) -> list[str]:
        names = ["a", "b", "c", "d"]
        stages = [{"name": name, "state": state} for name, state in zip(names, states, strict=True)]
        for number, name in enumerate(names, 1):
            (tmp_path / "stages" / f"{number:02d}-{name}" / "checkpoint").mkdir(parents=True, exist_ok=True)
        gone = old_checkpoints(tmp_path, {"stages": stages}, keep_last, needed)
        return [name for name in names if name not in {names[each.stage - 1] for each in gone}]

    done = "done"
    assert kept([done] * 4, 1, set()) == ["d"]
    assert kept([done] * 4, 2, {"a"}) == ["a", "c", "d"]
    assert kept([done, done, "pending", "pending"], 1, set()) == ["b", "c", "d"], (
        "of others nothing is removed"
    )
    assert kept([done, "running", done, done], 1, set()) == ["a", "b", "d"], "b is trained again, from a"
    assert kept([done, done, "trained", "pending"], 1, set()) == ["b", "c", "d"]


def unfinished_run(folder: Path) -> dict[str, Any]:
    """A run cut off in its third stage, with what such a kill leaves."""
    settings = four(folder, save_every_seconds=0)
    settings["model"] = "tests.stages.worlds:factory"
    assert in_a_fork(lambda: run(settings, reporter=Deadly("shard 2: scores", 1)))
    (folder / "stages" / "01-a" / "state" / "train").mkdir(parents=True)
    (folder / "stages" / "01-a" / "state" / "train" / "old.bin").write_bytes(b"x" * 3_000)
    (folder / "stages" / "03-c" / ".checkpoint.tmp").mkdir()
    (folder / "stages" / "03-c" / ".checkpoint.tmp" / "half.safetensors").write_bytes(b"x" * 500)
    (folder / ".summary.json.tmp").write_text("{")
    return settings


@needs_fork
def test_clean_removes_leftovers_says_how_many_bytes_and_the_run_goes_on(
    srlm: Command, unbroken: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    settings = unfinished_run(folder)
    before = files(folder)
    code, out, _ = srlm("clean", str(folder), "--dry-run", "--json")
    told = json.loads(out)
    assert code == 0 and told["dry_run"] and files(folder) == before
    places = {row["path"]: (row["what"], row["bytes"]) for row in told["removed"]}
    assert places == {
        os.path.join("stages", "01-a", "state"): ("training state of a finished stage", 3_000),
        os.path.join("stages", "03-c", ".checkpoint.tmp"): ("unfinished file or folder", 500),
        ".summary.json.tmp": ("unfinished file or folder", 1),
    }
    assert told["bytes"] == 3_501
    code, out, _ = srlm("clean", str(folder))
    assert code == 0 and "3.4 KiB removed" in out and "2.9 KiB" in out
    gone = before - files(folder)
    assert len(gone) == 3 and checkpoints(folder) == ["01-a", "02-b"]
    code, out, _ = srlm("clean", str(folder))
    assert "holds nothing to remove" in out
    assert without_seconds(run(settings, reporter=QUIET)) == without_seconds(unbroken[0])


@needs_fork
def test_clean_keeps_the_checkpoints_that_going_on_needs(
    srlm: Command, unbroken: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    settings = unfinished_run(folder)
    code, out, _ = srlm("clean", str(folder), "--keep-last", "1", "--json")
    assert code == 0 and checkpoints(folder) == ["02-b"], "stage c goes on from it"
    assert manifest(folder)["stages"][0]["removed"] == "clean --keep-last 1"
    assert any(row["what"] == "old checkpoint" and row["bytes"] > 1_000 for row in json.loads(out)["removed"])
    assert without_seconds(run(settings, reporter=QUIET)) == without_seconds(unbroken[0])


@needs_fork
def test_clean_keeps_what_a_stage_to_come_names(srlm: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = four(folder)
    settings["stages"][2]["start_from"] = "a"
    assert in_a_fork(lambda: run(settings, reporter=Deadly("3. c", 1)))
    srlm("clean", str(folder), "--keep-last", "1")
    assert checkpoints(folder) == ["01-a", "02-b"]


def test_a_run_that_is_in_use_is_left_alone(srlm: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    told = []

    def clean(env: Any, number: int, stage: Any) -> None:
        told.append(srlm("clean", str(folder), "--keep-last", "1"))

    run(four(folder), reporter=QUIET, after_stage=clean)
    assert {code for code, _, _ in told} == {1} and all("is in use by process" in err for _, _, err in told)
    assert checkpoints(folder) == ["01-a", "02-b", "03-c", "04-d"]


def test_a_folder_without_a_run_or_with_a_damaged_one_is_said(srlm: Command, tmp_path: Path) -> None:
    code, _, err = srlm("clean", str(tmp_path / "none"))
    assert code == 1 and "holds no run" in err and not (tmp_path / "none").exists()
    (tmp_path / "manifest.json").write_text("{")
    code, _, err = srlm("clean", str(tmp_path))
    assert code == 1 and "cannot be continued" in err


def test_what_cannot_be_removed_is_said_and_stays(
    tmp_path: Path, srlm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(four(tmp_path / "run"), reporter=QUIET)

    def refuse(*names: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cleaning, "remove", refuse)
    code, _, err = srlm("clean", str(tmp_path / "run"), "--keep-last", "1")
    assert code == 1 and "could not be removed (Permission denied)" in err
    assert checkpoints(tmp_path / "run") == ["01-a", "02-b", "03-c", "04-d"]

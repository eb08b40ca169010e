"""What has changed since a run began is named, all of it, and refused unless it is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.run_folder import RunFolder
from self_rewarding_lm_pytorch.run_folder.changes import plan_changes
from tests.stages.worlds import QUIET, plan, rows, weights


def cut_off(env: Any, number: int, stage: Any) -> None:
    raise RuntimeError("cut off")


def begun(settings: dict[str, Any]) -> dict[str, Any]:
    """A run cut off when its first stage was trained."""
    with pytest.raises(RuntimeError, match="cut off"):
        run(settings, reporter=QUIET, after_stage=cut_off)
    return settings


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The run began under other circumstances."""
    found = manifest(folder)
    change(found)
    (folder / "manifest.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["versions"].update(torch="2.0.1"), r"version of torch: '2\.0\.1' became '"),
        (lambda m: m["versions"].update(python="3.9.1"), r"version of python: '3\.9\.1' became '"),
        (lambda m: m["versions"].update({"self-rewarding-lm-pytorch": "0.9.0"}), r"'0\.9\.0' became '"),
        (lambda m: m.update(device="cuda:0"), "device: 'cuda' became 'cpu'"),
        (lambda m: m.update(processes=2), "number of processes: 2 became 1"),
        (
            lambda m: m["models"]["tests.stages.worlds:factory"].update(weights="f00"),
            "model tests.stages.worlds:factory, weights: 'f00' became ",
        ),
    ],
)
def test_what_decides_the_result_and_changed_is_named_and_refused(
    change: Any, message: str, tmp_path: Path
) -> None:
    settings = begun(plan(tmp_path, "seed", "given"))
    edit(tmp_path, change)
    before = manifest(tmp_path)
    with pytest.raises(ConfigError, match=f"(?s)began otherwise.*{message}.*--fresh.*--allow-changed"):
        run(settings, reporter=QUIET)
    assert manifest(tmp_path) == before, "nothing was written"
    assert run(settings, reporter=QUIET, allow_changed=True)["status"] == "completed"
    (noted,) = manifest(tmp_path)["changes"]
    assert noted["stage"] == "given"
    assert noted["time"].startswith("20")
    assert len(noted["changed"]) == 1


def test_changes_of_several_kinds_are_reported_together(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n' * 5)
    settings = plan(tmp_path / "run", "seed", "given")
    settings["stages"][1]["data"] = str(data)
    begun(settings)
    edit(tmp_path / "run", lambda m: m["versions"].update(accelerate="0.1", torch="2.0"))
    data.write_text('{"prompt": "q", "chosen": "c", "rejected": "b"}\n' * 5)
    with pytest.raises(ConfigError) as error:
        run(settings, reporter=QUIET, overrides=["seed=7", "stages.given.beta=0.3"])
    lines = str(error.value).splitlines()[1:-1]
    assert len(lines) == 5
    for line, part in zip(
        lines,
        (
            "seed: 0 became 7",
            "stages.2.train.beta: 0.1 became 0.3",
            "of torch",
            "of accelerate",
            "pairs.jsonl",
        ),
        strict=True,
    ):
        assert part in line


def test_what_changes_no_result_may_change_freely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = begun(plan(tmp_path / "run", "seed", "given"))
    edit(
        tmp_path / "run", lambda m: m["versions"].update(pyarrow="1.0", python=m["versions"]["python"] + "9")
    )
    edit(tmp_path / "run", lambda m: m.update(threads=64))
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = {**settings, "run": tmp_path / "moved", "save_every_seconds": 5}
    assert run(moved, reporter=QUIET)["status"] == "completed"
    assert "save_every_seconds: 5.0" in (tmp_path / "moved" / "plan.yaml").read_text()
    out = " ".join(capsys.readouterr().out.split())
    assert "number of threads: 64 became 1; sums are then rounded otherwise" in out
    assert "changes" not in manifest(tmp_path / "moved")


@pytest.mark.parametrize(
    ("key", "is_free"),
    [
        ("save_every_seconds", True),
        ("alarms", True),
        ("report_card", False),
        ("run", True),
        ("seed", False),
        ("runs", False),
    ],
)
def test_the_keys_that_may_change_are_known_by_their_place(key: str, is_free: bool) -> None:
    (change,) = plan_changes({key: 1}, {key: 2})
    assert (change.kind == "free") == is_free
    (below,) = plan_changes({"stages": [{"alarms": {"tie": 1}}]}, {"stages": [{"alarms": {"tie": 2}}]})
    assert below.kind == "free"
    (guard,) = plan_changes({"report_card": {"guard": {"then": 1}}}, {"report_card": {"guard": None}})
    assert guard.kind == "free"


def test_while_no_stage_has_begun_whatever_changed_makes_a_new_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open("model: m\n", 0, [("a", "sft")], fresh=False)
    folder.begin(device="cuda")
    (tmp_path / "report_cards").mkdir()
    again = RunFolder(tmp_path)
    again.open("model: m\n", 0, [("a", "sft")], fresh=False)
    again.compare({"device": "cpu"})
    again.settle(False, QUIET)
    again.begin(device="cpu")
    assert not (tmp_path / "report_cards").exists()
    assert manifest(tmp_path)["device"] == "cpu"


def test_with_allow_changed_finished_stages_keep_their_work_and_the_rest_is_done_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = begun(plan(tmp_path / "run", "seed", "given"))
    first = weights(tmp_path / "run")
    changes = ["stages.seed.learning_rate=0.5", "stages.given.learning_rate=0.001"]
    with pytest.raises(ConfigError, match="another plan"):
        run(settings, overrides=changes, reporter=QUIET)
    run(settings, overrides=changes, reporter=Reporter(), allow_changed=True)
    out = " ".join(capsys.readouterr().out.split())
    assert "stage seed is finished: it keeps what it made by its old settings" in out
    assert "stages.2.train.learning_rate: 0.01 became 0.001" in out
    now = weights(tmp_path / "run")
    assert first.items() <= now.items()
    slow = begun(plan(tmp_path / "other", "seed", "given"))
    slow["stages"][1]["learning_rate"] = 0.001
    run(slow, reporter=QUIET, allow_changed=True)
    assert weights(tmp_path / "other") == now, "the new learning rate was used"
    assert run(settings, overrides=changes, reporter=QUIET)["status"] == "completed", "now it is its plan"


def test_a_finished_run_may_be_given_another_stage(tmp_path: Path) -> None:
    run(plan(tmp_path, "seed"), reporter=QUIET)
    longer = plan(tmp_path, "seed", "given")
    with pytest.raises(ConfigError, match="stages: 1 became 2 entries"):
        run(longer, reporter=QUIET)
    summary = run(longer, reporter=QUIET, allow_changed=True)
    assert [stage["name"] for stage in summary["stages"]] == ["seed", "given"]
    other = tmp_path / "whole"
    run(plan(other, "seed", "given"), reporter=QUIET)
    assert weights(tmp_path) == weights(other)


@pytest.mark.parametrize(
    ("names", "message"),
    [(("given", "text"), "stage 1 of the run.*begun as seed \\(sft\\) and is now given"), ((), "not in")],
)
def test_what_a_stage_made_is_never_another_stages(
    names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    run(plan(tmp_path, "seed", "given"), reporter=QUIET)
    with pytest.raises(ConfigError, match=message):
        run(plan(tmp_path, *(names or ["seed"])), reporter=QUIET, allow_changed=True)


def test_a_run_from_before_such_things_were_noted_goes_on(tmp_path: Path) -> None:
    settings = begun(plan(tmp_path / "run", "seed", "text"))

    def forget(found: dict[str, Any]) -> None:
        for name in ("models", "threads", "processes", "data"):
            found.pop(name)
        found["stages"][0].pop("files")

    edit(tmp_path / "run", forget)
    run(settings, reporter=QUIET)
    run(plan(tmp_path / "whole", "seed", "text"), reporter=QUIET)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")

"""What a run sends to trackers, read back from what the trackers themselves wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.stages import tracker_settings
from self_rewarding_lm_pytorch.stages.tracker_settings import check_trackers
from self_rewarding_lm_pytorch.training.accelerator import make_accelerator
from self_rewarding_lm_pytorch.training.metrics import RunSteps, run_steps, training_of
from tests.conftest import ROOT
from tests.stages.worlds import QUIET, plan
from tests.test_resume import Deadly, in_a_fork, needs_fork


class Memory(GeneralTracker):
    """A tracker of somebody's own."""

    name = "memory"
    requires_logging_directory = False

    def __init__(self, fails_at: str = "") -> None:
        super().__init__()
        self.fails_at = fails_at
        self.calls: list[tuple[str, Any]] = []

    @property
    def tracker(self) -> list[tuple[str, Any]]:
        return self.calls

    def _called(self, name: str, value: Any) -> None:
        if name == self.fails_at:
            raise ConnectionError("no network")
        self.calls.append((name, value))

    def start(self) -> None:
        self._called("start", None)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._called("plan", values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._called("log", (step, values))

    def finish(self) -> None:
        self._called("finish", None)


class Listening(Reporter):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def logging_each_step(folder: Path, *names: str, **changes: Any) -> dict[str, Any]:
    settings = plan(folder, *names, **changes)
    for stage in settings["stages"]:
        stage["train"] = {**stage.get("train", {}), "log_every": 1}
    return settings


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What tensorboard itself reads: by tag, (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "trackers" / "tensorboard"))
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    texts = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    return {
        **found,
        **{tag: [(e.step, e.tensor_proto.string_val[0].decode()) for e in texts[tag]] for tag in texts},
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_has_every_logged_step_of_every_stage_on_one_rising_axis(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    summary = run(logging_each_step(folder, "seed", "play", "own", trackers=["tensorboard"]), reporter=QUIET)
    found = scalars(folder)
    assert [step for step, _ in found["01-seed/loss"]] == [1, 2, 3]
    played = [(line["iteration"], line["step"]) for line in lines(folder) if line["stage"] == "02-play"]
    assert played == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)], "two iterations, each of which counts from 1"
    first, second = "02-play/iteration-1", "02-play/iteration-2"
    assert [step for step, _ in found[f"{first}/loss"]] == [4, 5]
    assert [step for step, _ in found[f"{second}/loss"]] == [6, 7, 8]
    own = [step for step, _ in found["03-own/loss"]]
    assert own == list(range(9, 9 + len(own)))
    for stage in ("01-seed", first, second, "03-own"):
        logged = [line["loss"] for line in lines(folder) if training_of(line) == stage]
        assert [value for _, value in found[f"{stage}/loss"]] == pytest.approx(logged, rel=1e-5)
    pairs = [stage["num_pairs"] for stage in summary["stages"]]
    assert found["results/num_pairs"] == list(zip([3, 8, own[-1]], pairs, strict=True))
    assert [value for _, value in found["results/yield/candidates"]][-1] == summary["stages"][-1]["yield"][
        "candidates"
    ]


def test_tensorboard_shows_samples_with_votes_and_what_became_of_them_and_the_plan(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    run(logging_each_step(folder, "own", trackers="tensorboard"), reporter=QUIET)
    found = scalars(folder)
    table = str(found["01-own/samples/text_summary"][0][1])
    header, _, *rows = table.split("\n")
    assert header == "| prompt | candidate | response | score | votes | became |"
    assert all("what of" in row for row in rows)
    assert {row.split("|")[-2].strip() for row in rows} == {"chosen", "rejected", ""}
    assert "kind: self&#95;reward" not in str(found["plan/text_summary"][0][1]), "a plan is shown as code"
    assert "    - name: own" in str(found["plan/text_summary"][0][1])


@needs_fork
@pytest.mark.parametrize(("place", "after"), [("training", 2), ("2. given", 1), ("reference log-probs", 1)])
def test_a_run_that_is_gone_on_with_shows_no_step_twice(place: str, after: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    settings = logging_each_step(folder, "seed", "given", trackers=["tensorboard"])
    assert in_a_fork(lambda: run(settings, reporter=Deadly(place, after)))
    time.sleep(1.1)  # tensorboard orders its files by the second they were begun in
    run(settings, reporter=QUIET)
    found = scalars(folder)
    assert [step for step, _ in found["01-seed/loss"]] == [1, 2, 3]
    assert [step for step, _ in found["02-given/loss"]] == [4, 5]
    assert [step for step, _ in found["results/num_pairs"]] == [3, 5]
    assert len(found["plan/text_summary"]) == 1
    logged = [line["loss"] for line in lines(folder)]
    assert [v for tag in ("01-seed", "02-given") for _, v in found[f"{tag}/loss"]] == pytest.approx(
        logged, rel=1e-5
    )


def test_each_of_spins_iterations_adds_its_steps_however_seldom_it_logs(tmp_path: Path) -> None:
    """Of 6 and of 12 steps, logged at each tenth and at the last: no step is lower than one before it."""
    memory = Memory()
    settings = plan(tmp_path / "run", "play", trackers=[memory])
    own = [{"num_steps": 6, "log_every": 10}, {"num_steps": 12, "log_every": 10}]
    settings["stages"][0] |= {"per_iteration": own}
    run(settings, reporter=QUIET)
    assert [line["step"] for line in lines(tmp_path / "run")] == [6, 10, 12]
    logged = [value for name, value in memory.calls if name == "log"]
    sent = [step for step, values in logged if any(name.endswith("/loss") for name in values)]
    assert sent == [6, 16, 18]
    assert run_steps(tmp_path / "run" / "metrics.jsonl").total == 18


def test_steps_of_a_run_are_told_by_its_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    places = [("01-a", 10), ("01-a", 15), ("01-a", 10), ("01-a", 12), ("02-b", 1), ("02-b/future", 1)]
    path.write_text("".join(json.dumps({"stage": s, "step": n}) + "\n" for s, n in places) + '{"stage": "02')
    counted = RunSteps()
    assert [counted.add(*place) for place in places] == [10, 15, 25, 27, 28, 29]
    assert run_steps(path).total == 29
    assert run_steps(tmp_path / "none").total == 0


def test_report_cards_and_evaluations_are_sent_once_for_each_model(tmp_path: Path) -> None:
    judged = [
        {"prompt": "q?", "response": text, "score": score} for text, score in (("a", 1), ("bb", 2), ("c", 3))
    ]
    card = {"data": judged, "judge": {"template": "p {{ prompt }} r {{ response }}", "mode": "expected"}}
    memory = Memory()
    settings = logging_each_step(tmp_path / "run", "seed", trackers=[memory], report_card=card)
    run(settings, reporter=QUIET, evaluate=lambda env, number: {"model": "M1", "win_rate": 0.5, "none": None})
    logged = [value for name, value in memory.calls if name == "log"]
    cards = [
        (step, values) for step, values in logged if any(key.startswith("report_card/") for key in values)
    ]
    assert [step for step, _ in cards] == [0, 3]
    assert all("report_card/num_responses" in values for _, values in cards)
    assert [values for _, values in logged if "evaluation/win_rate" in values] == [
        {"evaluation/win_rate": 0.5}
    ]


def test_a_tracker_of_ones_own_gets_the_plan_flat_and_is_finished(tmp_path: Path) -> None:
    memory = Memory()
    run(logging_each_step(tmp_path / "run", "seed", trackers=[memory]), reporter=QUIET)
    kinds = [name for name, _ in memory.calls]
    assert kinds[:2] == ["start", "plan"] and kinds[-1] == "finish"
    sent = memory.calls[1][1]
    assert sent["stages.1.train.batch_size"] == 4 and sent["seed"] == 0
    assert all(isinstance(value, str | int | float | bool) for value in sent.values())


@pytest.mark.parametrize("fails_at", ["start", "plan", "log", "finish"])
def test_a_tracker_that_fails_is_said_once_and_stops_nothing(fails_at: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    reporter, memory = Listening(), Memory(fails_at)
    settings = logging_each_step(tmp_path / "run", "seed", trackers=[memory, "tensorboard"])
    summary = run(settings, reporter=reporter)
    assert summary["status"] == "completed" and len(lines(tmp_path / "run")) == 3
    said = [text for text in reporter.warnings if "memory" in text]
    assert len(said) == 1 and "no network" in said[0] and "metrics.jsonl" in said[0]
    assert [step for step, _ in scalars(tmp_path / "run")["01-seed/loss"]] == [1, 2, 3], (
        "the other one goes on"
    )


def test_wandb_writes_the_run_offline_under_one_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    options = {"settings": {"x_disable_stats": True, "console": "off"}, "tags": ["test"]}
    run(logging_each_step(folder, "seed", "own", trackers=[{"wandb": options}]), reporter=QUIET)
    written = list((folder / "trackers" / "wandb").glob("offline-run-*"))
    run_id = json.loads((folder / "trackers" / "sent.json").read_text())["run_id"]
    assert len(written) == 1 and written[0].name.endswith(run_id)
    records = wandb_records(next(written[0].glob("*.wandb")))
    losses = [row for row in records if "01-seed/loss" in row]
    assert [row["_step"] for row in losses] == [1, 2, 3]
    assert [row["01-seed/loss"] for row in losses] == pytest.approx(
        [line["loss"] for line in lines(folder)][:3]
    )
    assert any("results/num_pairs" in row for row in records)
    table = json.loads(next(written[0].rglob("samples*.table.json")).read_text())
    assert table["columns"] == ["prompt", "candidate", "response", "score", "votes", "became"]
    assert {row[-1] for row in table["data"]} == {"chosen", "rejected", ""}


def wandb_records(path: Path) -> list[dict[str, Any]]:
    """The history of an offline run, each row whole."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for data in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            found.append({**row, "_step": record.history.step.num})
    return found


def log_records(content: bytes) -> Iterator[bytes]:
    """Of a LevelDB log behind a header of seven bytes: records are cut at blocks of 32 KiB."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if (left := -place % 32_768) and left < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a record, or the last part of one
            yield whole
            whole = b""


@needs_fork
def test_trackers_that_cannot_hide_steps_are_sent_none_twice(tmp_path: Path) -> None:
    """A file stands for the tracker's server, which both goes write to."""
    folder, log = tmp_path / "run", tmp_path / "log.jsonl"

    class Server(Memory):
        def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
            with log.open("a") as file:
                file.write(json.dumps([step, values]) + "\n")

    settings = logging_each_step(folder, "seed", "own")
    for reporter in (Deadly("training", 2), Deadly("reference log-probs", 1), QUIET):
        settings["trackers"] = [Server()]
        killed = in_a_fork(lambda reporter=reporter: run(settings, reporter=reporter))  # type: ignore[misc]
        assert killed == (reporter is not QUIET)
    sent = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [(step, stage, values[f"{stage}/loss"]) for step, values in sent for stage in stages_in(values)]
    assert [step for step, _, _ in losses] == list(range(1, 1 + len(lines(folder))))
    assert [loss for _, _, loss in losses] == [line["loss"] for line in lines(folder)]


def stages_in(values: dict[str, Any]) -> list[str]:
    return [key.removesuffix("/loss") for key in values if key.endswith("/loss")]


def test_trackio_has_the_steps_and_the_samples(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="its requirements do not fit beside all pins")
    import sqlite3

    code = (
        "import sys; from pathlib import Path; from tests.fitting_in.test_trackers import *; "
        "run(logging_each_step(Path(sys.argv[1]), 'seed', 'own', trackers=['trackio']), reporter=QUIET)"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "data")}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True, env=environment, cwd=ROOT)
    with sqlite3.connect(tmp_path / "data" / "self-rewarding-lm.db") as base:
        rows = [
            (step, json.loads(values)) for step, values in base.execute("select step, metrics from metrics")
        ]
    assert [step for step, values in rows if "01-seed/loss" in values] == [1, 2, 3]
    assert [values["02-own/samples"]["_type"] for _, values in rows if "02-own/samples" in values] == [
        "trackio.table"
    ]


def test_a_fresh_run_forgets_what_trackers_had(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    settings = logging_each_step(folder, "seed", trackers=["tensorboard"])
    run(settings, reporter=QUIET)
    first = json.loads((folder / "trackers" / "sent.json").read_text())["run_id"]
    run(settings, reporter=QUIET, fresh=True)
    assert json.loads((folder / "trackers" / "sent.json").read_text())["run_id"] != first
    assert [step for step, _ in scalars(folder)["01-seed/loss"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("trackers", "says"),
    [
        (["tensorbord"], "Did you mean 'tensorboard'"),
        ([{"wandb": {}, "tensorboard": {}}], "an entry of its own"),
        ([{"wandb": 3}], "are no options"),
        ([7], "is no tracker"),
    ],
)
def test_trackers_that_cannot_be_are_refused_with_the_plan(trackers: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trackers") as error:
        load_plan(plan(tmp_path / "run", "seed", trackers=trackers))
    assert says in str(error.value)


def test_a_tracker_that_is_not_installed_or_named_twice_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = plan(tmp_path / "run", "seed", model="nowhere:factory")
    with pytest.raises(ConfigError, match="pip install swanlab"):
        run({**settings, "trackers": ["swanlab"]}, reporter=QUIET)
    with pytest.raises(ConfigError, match="named twice"):
        run({**settings, "trackers": ["tensorboard", "tensorboard"]}, reporter=QUIET)
    monkeypatch.setattr(tracker_settings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        check_trackers(load_plan({**settings, "trackers": ["tensorboard"]}).trackers)
    assert not (tmp_path / "run").exists()


def test_accelerates_own_way_is_refused_with_the_plans() -> None:
    with pytest.raises(ConfigError, match=r"trackers: \[tensorboard\]"):
        make_accelerator({"log_with": "tensorboard"})


def test_trackers_may_change_between_two_goes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(plan(folder, "seed"), reporter=QUIET)
    summary = run(plan(folder, "seed", trackers=["tensorboard"], keep_last=1, device="auto"), reporter=QUIET)
    assert summary["status"] == "completed"


def test_no_tracker_library_is_imported_without_being_asked_for(tmp_path: Path) -> None:
    code = "import sys; import self_rewarding_lm_pytorch.pipeline; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert not {"wandb", "tensorboard", "trackio", "torch.utils.tensorboard"} & set(out.stdout.split())

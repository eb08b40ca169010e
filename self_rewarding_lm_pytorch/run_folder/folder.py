"""A run's folder: its manifest, its plan, and how far each stage is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.files import is_there, write_json, write_text
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.checkpoint_files import check_files, notes_of, remedy
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.run_folder.changes import (
    Change,
    fact_changes,
    plan_changes,
    refusal,
    versions,
)
from self_rewarding_lm_pytorch.run_folder.contents import clear_run, read_run

Entry = dict[str, Any]


class RunFolder:
    """The folder of one run. What is in it was written whole.

    On several processes all call the same methods in the same order; the main one reads and writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        self.changes: list[Change] = []  # since the run began
        self.is_on_disk = False  # plan and manifest both; a manifest alone could not be gone on with
        self._plan = ""
        self._seed = 0
        self._stages: list[tuple[str, str]] = []
        self._is_new = False
        self._is_replanned = False

    def open(self, plan: str, seed: int, stages: list[tuple[str, str]], *, fresh: bool) -> None:
        """Looks at the run that is there, if any; writes nothing, so that a plan can still be refused.

        plan: the resolved plan's text. stages: (name, kind) in order. fresh: what is there is not gone on
        with. What differs from that run is in `changes`; `settle` refuses it. Raises CheckpointError where
        what is there cannot be read.
        """
        self._plan, self._seed, self._stages = plan, seed, stages
        manifest, before = processes.on_main(partial(read_run, self.path, fresh))
        if manifest is None:
            self._start_anew()
        else:
            self.manifest = manifest
            self.changes = plan_changes(before, yaml.safe_load(plan))

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Adds to `changes` what else decides a result and is not as the manifest has it."""
        self.changes += fact_changes(self.manifest, facts)

    def settle(self, allow_changed: bool, reporter: Reporter) -> None:
        """Refuses what changed, all of it together, or says it and goes on.

        Where no stage has begun, nothing was made by the old values and the run is a new one. Raises
        ConfigError.
        """
        deciding = [change for change in self.changes if change.kind not in ("free", "threads")]
        if deciding and not self.has_begun:
            self._start_anew()
        elif deciding and not allow_changed:
            raise refusal(self.path, deciding)
        elif deciding:
            self._go_on_changed(deciding, reporter)
        for change in self.changes:
            if change.kind == "threads" and self.has_begun:
                reporter.warn(f"{change}; sums are then rounded otherwise, so the last bits may differ")
        self._is_replanned |= any(change.kind in ("free", "plan") for change in self.changes)
        self.changes = []

    def begin(self, **values: Any) -> None:
        """From here on the run is on disk; a new one takes the place of what was there."""
        if self._is_new:
            self.clear()
        if self._is_new or self._is_replanned:
            write_text(self.path / "plan.yaml", self._plan)
        self.manifest.pop("error", None)
        self.save(status="running", **values)
        self.is_on_disk = True

    def clear(self) -> None:
        """Removes what a run wrote here, and nothing else; the manifest last, so that this can be cut off."""
        processes.on_main(partial(clear_run, self.path))

    def redo_missing(self, needed: Sequence[str]) -> list[str]:
        """Stages to be trained again, as their checkpoint is gone and something ahead starts from it.

        needed: names of stages whose models stages ahead name. Until `save`, this is not on disk.
        """
        finished = [n for n in range(1, len(self._stages) + 1) if self.is_trained(n)]
        if len(finished) == len(self._stages) and self.is_finished:
            return []
        ahead = [n for n in range(1, len(self._stages) + 1) if not self.is_trained(n)]
        wanted = {n for n in finished if self.stage(n)["name"] in needed}
        wanted |= {min(ahead) - 1} - {0} if ahead else {finished[-1]}
        redone: set[int] = set()
        for number in wanted:  # and what it is trained from, where that is gone too
            while number >= 1 and not is_there(self.stage_folder(number) / "checkpoint"):
                redone.add(number)
                number -= 1
        for number in redone:
            self.stage(number)["state"] = "running"
        return [self.stage(number)["name"] for number in sorted(redone)]

    @property
    def has_begun(self) -> bool:
        """Whether a stage has."""
        return any(stage["state"] != "pending" for stage in self.manifest["stages"])

    @property
    def is_finished(self) -> bool:
        """Whether this plan's run is, its last checkpoint with it: another plan's may have less to do."""
        is_same = all(change.kind == "free" for change in self.changes)
        if self.manifest.get("status") != "completed" or not is_same:
            return False
        return is_there(self.stage_folder(len(self.manifest["stages"])) / "checkpoint")

    def is_trained(self, number: int) -> bool:
        """Whether a stage's checkpoint was written; a stage that the plan adds has none."""
        is_known = number <= len(self.manifest["stages"])
        return is_known and self.stage(number)["state"] in ("trained", "done")

    def stage(self, number: int) -> Entry:
        """The manifest's entry of a stage, from 1."""
        entry: Entry = self.manifest["stages"][number - 1]
        return entry

    def begun(self) -> dict[str, Path]:
        """The folders of the stages that have begun, by their names."""
        entries = enumerate(self.manifest["stages"], 1)
        return {entry["name"]: self.stage_folder(n) for n, entry in entries if entry["state"] != "pending"}

    def stage_folder(self, number: int) -> Path:
        return self.path / "stages" / f"{number:02d}-{self.stage(number)['name']}"

    def update_stage(self, number: int, **values: Any) -> None:
        self.stage(number).update(values)
        self.save()

    def save(self, **values: Any) -> None:
        self.manifest.update(values)
        write_json(self.path / "manifest.json", self.manifest)

    def noted(self, place: Path) -> dict[str, Any]:
        """What the files of a folder that was just written are, for the manifest."""
        return processes.on_main(partial(notes_of, place))

    def check(self, place: Path, notes: dict[str, Any] | None) -> None:
        """Raises CheckpointError unless the folder's files are those noted; older runs have no notes."""
        if notes:
            notes.update(processes.on_main(partial(check_files, place, notes, remedy(place))))

    def note_change(self, said: Sequence[str]) -> None:
        """Writes down what was allowed, when, and how far the run was."""
        under_way = next(
            (s["name"] for s in self.manifest["stages"] if s["state"] not in ("trained", "done")), None
        )
        entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "stage": under_way, "changed": list(said)}
        self.manifest["changes"] = [*self.manifest.get("changes", []), entry]

    def _start_anew(self) -> None:
        self._is_new = True
        self.manifest = {
            "schema": 1,
            "status": "running",
            "versions": versions(),
            "seed": self._seed,
            "stages": [_pending(*stage) for stage in self._stages],
        }

    def _go_on_changed(self, changes: Sequence[Change], reporter: Reporter) -> None:
        self.manifest["stages"] = self._restaged()
        for change in changes:
            reporter.warn(f"changed since this run began, and gone on with: {change}")
        for number, stage in enumerate(self.manifest["stages"], 1):
            if stage["state"] == "pending" or not any(
                c.where.startswith(f"stages.{number}.") for c in changes
            ):
                continue
            if self.is_trained(number):
                reporter.warn(f"stage {stage['name']} is finished: it keeps what it made by its old settings")
            else:
                reporter.warn(
                    f"stage {stage['name']} has begun: what it stored by its old settings is kept, and the "
                    "rest is done by the new ones"
                )
        self.manifest["seed"] = self._seed
        self.note_change([str(change) for change in changes])

    def _restaged(self) -> list[Entry]:
        """The new plan's stages, with what is done. Raises ConfigError where one that began is gone."""
        before: list[Entry] = self.manifest["stages"]
        for number, entry in enumerate(before, 1):
            now = self._stages[number - 1] if number <= len(self._stages) else None
            if entry["state"] != "pending" and now != (entry["name"], entry["kind"]):
                is_now = "is not in the plan any more" if now is None else f"is now {now[0]} ({now[1]})"
                was = f"{entry['name']} ({entry['kind']})"
                raise ConfigError(
                    f"stage {number} of the run in {self.path} has begun as {was} and {is_now}; what it made "
                    "cannot be another stage's, also with --allow-changed. Take it back, begin afresh "
                    "(--fresh), or name another run folder."
                )
        begun = [entry for entry in before if entry["state"] != "pending"]
        return [*begun, *(_pending(*stage) for stage in self._stages[len(begun) :])]


def _pending(name: str, kind: str) -> Entry:
    return {"name": name, "kind": kind, "state": "pending"}

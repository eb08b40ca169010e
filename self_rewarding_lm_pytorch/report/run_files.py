"""What a run's folder holds, as far as it can be read. Everything is optional; what is broken is noted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch.data.store import Record, ShardStore
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.records import Candidate, Judgment, Message, PreferencePair
from self_rewarding_lm_pytorch.report.votes import are_compared
from self_rewarding_lm_pytorch.report.words import is_number
from self_rewarding_lm_pytorch.text.conversations import transcript


@dataclass
class Stage:
    """What a stage's folder holds; `skipped` as in skipped.json's visits."""

    name: str  # of the folder, NN-NAME
    candidates: list[Candidate]
    judgments: list[Judgment]
    pairs: list[PreferencePair]
    skipped: list[dict[str, Any]]
    plan: Mapping[str, Any] = field(default_factory=dict)  # its settings, where they are known
    prompts: Mapping[int, str] = field(default_factory=dict)  # by index, those it began with
    judge_pairs: list[PreferencePair] = field(default_factory=list)
    comparisons: list[Judgment] = field(default_factory=list)  # of judgments, by the meta-judge

    @property
    def own_name(self) -> str:
        """As the plan calls it."""
        return self.name.partition("-")[2]

    @property
    def judge(self) -> str:
        """Equal for stages that judge in one way, on one scale; a stage of no known plan is alone."""
        if not self.plan:
            return self.name
        return repr([self.plan.get(name) for name in ("judge", "reward", "reward_model")])

    @property
    def is_compared(self) -> bool:
        """Whether its scores are preferences: how often an answer won, one half on average in any stage."""
        judge = self.plan.get("judge")
        is_planned = isinstance(judge, dict) and judge.get("mode") == "pairwise"
        return is_planned or are_compared(self.judgments)


@dataclass
class Run:
    """The files of a run, and which of them could not be read."""

    folder: Path
    problems: list[str] = field(default_factory=list)

    def json(self, path: str) -> dict[str, Any]:
        """The object in a file; empty where the file is missing or broken."""
        try:
            # NaN (the correlation of a constant) is as absent as null.
            value = json.loads((self.folder / path).read_text("utf-8"), parse_constant=lambda _: None)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.problems.append(f"{path} could not be read: {error}")
            return {}
        return value if isinstance(value, dict) else {}

    def text(self, path: str) -> str:
        file = self.folder / path
        return file.read_text("utf-8", errors="replace") if file.is_file() else ""

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The logged lines; a killed run may leave half of one."""
        for line in self.text("metrics.jsonl").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "stage" in row and is_number(row.get("step")):
                yield row

    def stages(self) -> list[Stage]:
        """In the order of their folders."""
        plans = self._stage_plans()
        folders = [path for path in sorted(self.folder.glob("stages/*")) if path.is_dir()]
        return [self._stage(folder, plans.get(folder.name.partition("-")[2], {})) for folder in folders]

    def _stage_plans(self) -> dict[str, dict[str, Any]]:
        """name -> settings. A plan that is none tells nothing: it is shown as it is."""
        try:
            plan = yaml.safe_load(self.text("plan.yaml"))
        except (yaml.YAMLError, ValueError, RecursionError):
            return {}
        rows = plan.get("stages") if isinstance(plan, dict) else None
        found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return {str(row.get("name")): row for row in found}

    def _stage(self, folder: Path, plan: dict[str, Any]) -> Stage:
        visits = self.json(f"stages/{folder.name}/skipped.json").get("visits", [])
        skipped = [row for row in visits if isinstance(row, dict)] if isinstance(visits, list) else []
        skipped = [
            row for row in skipped if is_number(row.get("prompt_index")) and is_number(row.get("visit"))
        ]
        candidates, judgments = self._records(folder, Candidate), self._records(folder, Judgment)
        pairs, prompts = self._records(folder, PreferencePair), self._prompts(folder)
        stage = Stage(folder.name, candidates, judgments, pairs, skipped, plan, prompts)
        stage.judge_pairs = self._records(folder / "judge_pairs", PreferencePair)
        stage.comparisons = self._records(folder / "judge_pairs", Judgment)
        return stage

    def _prompts(self, folder: Path) -> dict[int, str]:
        """The stage's own list, which it writes as it begins; conversations are as judges see them."""
        try:
            asked = json.loads((folder / "items" / "prompts.json").read_text("utf-8"))
            return {
                index: entry if isinstance(entry, str) else transcript(tuple(Message(**t) for t in entry))
                for index, entry in enumerate(asked)
            }
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def _records(self, folder: Path, kind: type[Record]) -> list[Record]:
        store, records = ShardStore(folder), list[Record]()
        for shard in range(store.num_shards(kind)):
            try:
                records += store.read(kind, shard)
            except (OSError, CheckpointError) as error:
                path = store.path(kind, shard).relative_to(self.folder)
                self.problems.append(f"{path} could not be read: {error}")
        return records

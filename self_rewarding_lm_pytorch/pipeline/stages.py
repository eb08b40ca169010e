"""One stage of a run: done, or found done, with its checkpoint checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from self_rewarding_lm_pytorch.alarms import Limit
from self_rewarding_lm_pytorch.data.files import is_there, write_folder
from self_rewarding_lm_pytorch.models.checkpoint_files import without_times
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.pipeline.around import Around, Summary, stage_ends, stage_info
from self_rewarding_lm_pytorch.run_folder import RunFolder
from self_rewarding_lm_pytorch.stages.base import Environment, StageConfig, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.watch import Watch
from self_rewarding_lm_pytorch.training.metrics import MetricsLog, significant
from self_rewarding_lm_pytorch.training.state import remove as remove_states


class CheckedFolders(dict[str, Path]):
    """Stages' checkpoints by name; one is checked against what was written whenever it is asked for."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self._folder = folder
        self._numbers: dict[str, int] = {}

    def add(self, number: int) -> Path:
        """The checkpoint of a finished stage."""
        name = self._folder.stage(number)["name"]
        self._numbers[name] = number
        self[name] = self._folder.stage_folder(number) / "checkpoint"
        return self[name]

    def __getitem__(self, name: str) -> Path:
        place = super().__getitem__(name)
        if is_there(place):  # old ones may be removed to make room; who needs one then says that it is gone
            self._folder.check(place, self._folder.stage(self._numbers[name]).get("files"))
        return place


def run_stage(stage: StageConfig, number: int, folder: RunFolder, env: Environment, around: Around) -> None:
    """Does what is missing of a stage; afterwards the policy is as the stage left it."""
    checkpoints = env.checkpoints
    assert isinstance(checkpoints, CheckedFolders)
    label = f"{number}. {stage.name} ({stage.kind})"
    if folder.stage(number)["state"] == "done":
        env.reporter.say(f"{label}: done before")
        checkpoint = checkpoints.add(number)
        is_last = number == len(folder.manifest["stages"])
        if is_last or not folder.is_trained(number + 1):  # what is after it starts from it
            env.policy.restore(checkpoint)
        return
    env.reporter.say(label)
    around.callbacks.stage_begins(stage_info(folder, number))
    if folder.stage(number)["state"] != "trained":
        _train(stage, number, folder, env, around)
    remove_states(folder.stage_folder(number))
    env.policy.restore(checkpoints.add(number))
    folder.update_stage(number, state="done", **stage_ends(stage, number, folder, env, around))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _train(stage: StageConfig, number: int, folder: RunFolder, env: Environment, around: Around) -> None:
    place = folder.stage_folder(number)
    checkpoint = place / "checkpoint"
    folder.stage(number).pop("removed", None)
    folder.update_stage(number, state="running")
    metrics = MetricsLog(folder.path / "metrics.jsonl", place.name, around.trackers.line)
    metrics.begin()
    watch = Watch(_watched(env), place, stage.kind, env.reporter)
    watch.begin()
    step_done = partial(around.callbacks.step_done, stage_info(folder, number))
    outcome = stage.run(StageRun(env, number, stage.name, place, metrics, watch, step_done))
    watch.close()
    write_folder(checkpoint, partial(_save, env.policy))
    files, before = folder.noted(checkpoint), folder.stage(number).get("files")
    later = folder.manifest["stages"][number:]
    if (
        before
        and without_times(before) != without_times(files)
        and any(s["state"] != "pending" for s in later)
    ):
        said = (
            f"stage {stage.name} was trained again, as its checkpoint was gone, and came out with other "
            "weights than the first time; the stages after it were made from those"
        )
        env.reporter.warn(said)
        folder.note_change([said])
    figures = _figures(stage, outcome, str(checkpoint.relative_to(folder.path)))
    folder.update_stage(number, state="trained", outcome=figures, files=files)


def _watched(env: Environment) -> Mapping[str, Limit]:
    """The alarms that can mean something: without an end of sequence every answer ends by length."""
    can_end = env.given_generator is not None or (env.codec is not None and env.codec.eos_ids)
    return env.alarms if can_end else {kind: env.alarms[kind] for kind in env.alarms if kind != "never_ends"}


def _save(policy: Policy, folder: Path) -> None:
    policy.save(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's; ours is written once the stage's worth is known


def _figures(stage: StageConfig, outcome: StageOutcome, checkpoint: str) -> Summary:
    return {
        "name": stage.name,
        "kind": stage.kind,
        "checkpoint": checkpoint,
        "num_pairs": outcome.num_pairs,
        "yield": outcome.counts.as_dict(),
        "tokens_generated": outcome.tokens_generated,
        "generate_seconds": round(outcome.generate_seconds, 3),
        "judge_seconds": round(outcome.judge_seconds, 3),
        "train_seconds": round(outcome.train_seconds, 3),
        "metrics": significant(outcome.metrics),
    }

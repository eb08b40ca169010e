"""Where a training is, on disk: saved as it goes, so that it need not begin again.

Below a stage's folder: state/NAME/step-000120/ is the newest whole state of the training NAME, and
state/NAME/done/ what is left of one that has ended. The order of the data, the schedule and dropout are
functions of the seed and the step, so no generator's state is among them.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch import interrupts, processes
from self_rewarding_lm_pytorch.data.files import write_folder
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.models.sharding import whole_tensor
from self_rewarding_lm_pytorch.training.parts import (
    NotStorable,
    Part,
    Resumable,
    fault_of,
    read_head,
    read_parts,
    write_parts,
)

FOLDER = "state"
"""In a stage's folder: what the stage needs only while it trains."""
_STEP, _DONE = "step-", "done"

Parts = Mapping[str, Resumable]


def remove(stage_folder: Path) -> None:
    """Removes all training states of a stage, for when its checkpoint is written."""
    processes.on_main(lambda: shutil.rmtree(stage_folder / FOLDER, ignore_errors=True))


class TrainingStates:
    """The states of one training of a stage.

    folder: stage folder / state / NAME. of: what tells this training from others, as JSON has it (its seed,
    its number of steps); a state of another one is not used. every: seconds between two saves, 0 for each
    step, infinity for none, where nothing can go on. warn: how what is lost is said. All processes of a run
    call the methods in the same order.
    """

    def __init__(self, folder: Path, *, of: Any, every: float, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self._of = of
        self._every = every
        self._warn = warn
        self._saved_at = time.monotonic()
        self._stored = 0  # the step of the newest state
        self._is_storable = math.isfinite(every)

    @cached_property
    def step(self) -> int:
        """Finished steps of the newest whole state; 0 where there is none."""
        return 0 if self._newest is None else _step_of(self._newest)

    @cached_property
    def _newest(self) -> Path | None:
        return processes.on_main(self._find_newest)

    def _find_newest(self) -> Path | None:
        found = sorted(self.folder.glob(f"{_STEP}[0-9]*"), key=_step_of, reverse=True)
        return next((path for path in found if self._is_whole(path)), None)

    def _is_whole(self, path: Path) -> bool:
        fault = fault_of(path)
        if not fault and read_head(path) != self._of:
            fault = f"it is of another training, {read_head(path)}, and this one is {self._of}"
        if fault:
            self._warn(
                f"the training state {path} is not used: {fault}. What was trained since the state before "
                "it, or since this training began, is trained again, as the plan now says"
            )
        return not fault

    def resume(self, parts: Parts) -> int:
        """Puts the newest state into the parts, in their order; its finished steps, 0 without one.

        Raises CheckpointError where the state is whole but does not fit the parts.
        """
        if self._newest is not None:
            self._put(self._newest, parts, is_all=True)
        self._stored, self._saved_at = self.step, time.monotonic()
        return self.step

    def _put(self, folder: Path, parts: Parts, *, is_all: bool) -> dict[str, Part]:
        stored = read_parts(folder)
        try:
            if is_all and stored.keys() != parts.keys():
                raise CheckpointError(f"it holds {sorted(stored)}, but the training has {sorted(parts)}")
            for name in [name for name in parts if name in stored]:
                parts[name].resume(stored[name])
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the training state {folder} does not fit this training: {error}. Take back what has "
                f"changed since it was written, or remove {self.folder} to begin this training again"
            ) from error
        return stored

    def step_done(self, step: int, parts: Parts) -> None:
        """After each step but the last: saves where it is time to, or where the run was asked to end.

        Raises Interrupted then, once the state is stored.
        """
        now = interrupts.is_asked(), time.monotonic() - self._saved_at >= self._every
        told = processes.gathered(now)
        is_asked, is_due = any(asked for asked, _ in told), told[0][1]
        if is_asked or is_due:
            self.save(step, parts)
        if is_asked:
            interrupts.unit_done()

    def save(self, step: int, parts: Parts) -> None:
        """Stores the parts as they are after so many steps, in the place of the state before."""
        if not self._is_storable or step == self._stored:
            return
        try:
            held = {name: _whole(part.state()) for name, part in parts.items()}
        except NotStorable as error:
            self._is_storable = False
            self._warn(f"this training cannot be gone on with if it is cut off, but begins again: {error}")
            return
        path = self.folder / f"{_STEP}{step:06d}"
        write_folder(path, partial(write_parts, head=self._of, parts=held))
        processes.on_main(lambda: self._remove_but(path))
        self._stored, self._saved_at = step, time.monotonic()

    def _remove_but(self, newest: Path) -> None:
        for path in self.folder.iterdir():
            if path != newest and path.name.lstrip(".").startswith(_STEP):
                shutil.rmtree(path, ignore_errors=True)

    def take_over(self, parts: Parts) -> dict[str, Part] | None:
        """What `finish` stored, put into the parts that it has; None where this training has not ended.

        Raises CheckpointError where it does not fit the parts.
        """
        path = self.folder / _DONE
        is_done = processes.on_main(lambda: path.exists() and self._is_whole(path))
        return self._put(path, parts, is_all=False) if is_done else None

    def finish(self, parts: Mapping[str, Part]) -> None:
        """Stores what is left of a training that has ended, in the place of all its states."""
        if math.isinf(self._every):
            return
        path = self.folder / _DONE
        write_folder(path, partial(write_parts, head=self._of, parts=parts))
        processes.on_main(self._remove_all_but_done)

    def _remove_all_but_done(self) -> None:
        for path in self.folder.iterdir():
            if path.name != _DONE:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _whole(part: Part) -> Part:
    """On the main process, which writes it; the others give their parts of the tensors."""
    tensors = {name: whole_tensor(tensor) for name, tensor in part.tensors.items()}
    return Part(tensors if processes.is_main() else {}, part.values)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix(_STEP))

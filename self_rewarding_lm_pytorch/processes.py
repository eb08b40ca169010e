"""The processes of one run, where it was started on several: who writes, and what all of them know.

Every process runs the same program over the same plan. They part only inside `generation` and inside an
optimizer step; the functions below are called by all of them, in the same order. With one process they cost
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import ProcessError

T = TypeVar("T")

_is_apart = False


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if _is_started() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if _is_started() else 0


def is_main() -> bool:
    """Whether this process writes the run's files and talks to the user."""
    return rank() == 0


def agreed(value: T) -> T:
    """The main process's value, in every process. It is pickled."""
    if not _is_several():
        return value
    box: list[Any] = [value]
    _checked(lambda: dist.broadcast_object_list(box, src=0))
    found: T = box[0]
    return found


def gathered(part: T) -> list[T]:
    """Every process's part, in the order of their ranks. They are pickled."""
    if not _is_several():
        return [part]
    parts: list[Any] = [None] * world_size()
    _checked(lambda: dist.all_gather_object(parts, part))
    return parts


def on_main(work: Callable[[], T]) -> T:
    """What `work` gives in the main process, where alone it runs; what it raises is raised everywhere."""
    if not _is_several():
        # Apart, the others' writing is left out: they have failed, or the main process has.
        return work() if is_main() else None  # type: ignore[return-value]
    result: Any = None
    error: BaseException | None = None
    if is_main():
        try:
            result = work()
        except Exception as raised:
            error = raised
    result, said = agreed((result, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    if said is not None:
        raise ProcessError(f"the main process of this run failed: {said}")
    done: T = result
    return done


def add_up(tensor: Tensor) -> None:
    """Makes the tensor, on the run's device, its sum over all processes, the same bits in each."""
    if _is_several():
        _checked(lambda: dist.all_reduce(tensor))


def share(tensor: Tensor) -> None:
    """Gives a tensor on the run's device the main process's values."""
    if _is_several():
        _checked(lambda: dist.broadcast(tensor, src=0))


def share_weights(module: nn.Module) -> None:
    """The same of all parameters and buffers: a module made at random is another in each process."""
    if not _is_several():
        return
    for tensor in (*module.parameters(), *module.buffers()):
        whole = tensor.data.contiguous()
        share(whole)
        tensor.data.copy_(whole)


def each(work: Callable[[], T]) -> list[T]:
    """What `work` gives in every process, in the order of their ranks; where it fails in one, all raise."""
    result: Any = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as raised:
        error = raised
    said = None if error is None else f"{type(error).__name__}: {error}"
    parts = gathered((result, said))
    if error is not None:
        raise error
    for number, (_, fault) in enumerate(parts):
        if fault is not None:
            raise ProcessError(f"process {number} of this run failed: {fault}")
    return [part for part, _ in parts]


def own_part(length: int) -> slice:
    """Which of `length` things, in a row, are this process's; the parts differ by one at the most."""
    size, more = divmod(length, world_size())
    start = rank() * size + min(rank(), more)
    return slice(start, start + size + (rank() < more))


@contextmanager
def apart() -> Iterator[None]:
    """Nobody is waited for: for what a process still does after an error that the others may not have."""
    global _is_apart
    before, _is_apart = _is_apart, True
    try:
        yield
    finally:
        _is_apart = before


def leave() -> None:
    """Takes this process out of the group, whose threads may abort a process that ends inside of it."""
    if _is_started():
        dist.destroy_process_group()


def _is_started() -> bool:
    return dist.is_available() and dist.is_initialized()


def _is_several() -> bool:
    return not _is_apart and world_size() > 1


def _checked(communicate: Callable[[], Any]) -> None:
    try:
        communicate()
    except RuntimeError as error:
        raise ProcessError(
            "another process of this run has ended or cannot be reached, so this one cannot go on; its own "
            "message says why. What was stored is kept: the same command, started on as many processes, goes "
            f"on from there. ({str(error).splitlines()[0]:.200})"
        ) from error

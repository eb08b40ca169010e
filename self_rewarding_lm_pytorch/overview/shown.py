"""An overview as tables and lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from self_rewarding_lm_pytorch.overview.amounts import in_bytes, in_short

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.overview.estimates import Estimates, StageEstimates
    from self_rewarding_lm_pytorch.overview.plan import Overview, StageOverview

Table = tuple[list[str], list[list[str]]]
"""Columns and rows."""


def steps_rows(found: Overview) -> Table:
    """What each stage does."""
    columns = ["", "stage", "kind", "from", "steps", "batch", "rate", "to", "beta"]
    return columns, [_steps(number, stage) for number, stage in enumerate(found.stages, 1)]


def _steps(number: int, stage: StageOverview) -> list[str]:
    return [
        str(number),
        stage.name,
        stage.kind,
        str(stage.items),
        str(stage.steps),
        "-" if stage.batch_size is None else f"{stage.batch_size:,}",
        " ".join(f"{rate:g}" for rate in stage.learning_rates) or "-",
        " ".join(f"{rate:g}" for rate in stage.end_learning_rates) or "-",
        " ".join(f"{beta:g}" for beta in stage.betas) or "-",
    ]


def estimate_rows(found: Overview) -> Table:
    """What each stage takes; ~ is by characters, ? is not known before a run."""
    columns = ["", "stage", "answers", "votes", "tokens in a step", "training", "sampling", "disk"]
    rows = zip(found.stages, found.estimates.stages, strict=True)
    return columns, [_estimates(number, stage.name, each) for number, (stage, each) in enumerate(rows, 1)]


def _estimates(number: int, name: str, each: StageEstimates) -> list[str]:
    tokens, memory = each.tokens, each.memory
    training = memory.training if memory is not None and memory.gradients else 0
    is_known = each.disk.checkpoints is not None
    return [
        str(number),
        name,
        _count(tokens.candidates, tokens.most_visits),
        _count(tokens.votes, tokens.most_visits),
        "?" if tokens.step is None else f"{'~' if tokens.is_rough else ''}{in_short(tokens.step)}",
        _memory(None if memory is None else training),
        _memory(None if memory is None else memory.sampling or 0),
        in_bytes(each.disk.kept) if is_known else f"? + {in_bytes(each.disk.kept)}",
    ]


def _count(tokens: int | None, most: int) -> str:
    if tokens is None:
        return "?"
    return "-" if not tokens else in_short(tokens) + (f" (x{most})" if most > 1 else "")


def _memory(number: int | None) -> str:
    return "?" if number is None else in_bytes(number) if number else "-"


def estimate_lines(estimates: Estimates) -> list[str]:
    """What holds for the whole run, and what the numbers mean."""
    on = f"{estimates.processes} process" + ("es" if estimates.processes > 1 else "")
    lines = [
        "answers and votes: tokens sampled at most, where each visit gives a pair (xN: the search may take N "
        f"times as many); batches: of all processes; memory: on one {estimates.device} device, of {on}"
    ]
    if any(each.tokens.is_rough for each in estimates.stages):
        lines.append("~ counts four characters as a token, because the tokenizer is not on this machine")
    if estimates.parameters is not None:
        trained = "all trained"
        if estimates.trained_parameters not in (None, estimates.parameters):
            trained = f"{in_short(estimates.trained_parameters or 0)} trained"
        lines.append(f"parameters: {in_short(estimates.parameters)}, {trained}")
    if estimates.peak is not None:
        has = "" if estimates.device_bytes is None else f" of {in_bytes(estimates.device_bytes)}"
        lines.append(f"memory: about {in_bytes(estimates.peak)}{has}, and a tenth or two more for buffers")
    free = "" if estimates.free_disk_bytes is None else f"; {in_bytes(estimates.free_disk_bytes)} are free"
    beside = "" if estimates.disk_is_whole else ", without checkpoints, whose size is not known"
    lines.append(f"disk: up to {in_bytes(estimates.disk_bytes)}{beside}{free}")
    return lines

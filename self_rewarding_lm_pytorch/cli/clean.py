"""`clean RUN`: remove what a run folder holds and nothing needs any more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from self_rewarding_lm_pytorch.cli.output import echo
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError, SelfRewardingError

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.run_folder.cleaning import Removable


def clean(
    run_dir: Annotated[Path, typer.Argument(help="A run folder.")],
    keep_last: Annotated[
        int | None,
        typer.Option(min=1, help="Also remove checkpoints, but for the last so many finished stages'."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what went, as JSON.")] = False,
) -> None:
    """Remove training states of finished stages, unfinished files and, if asked, old checkpoints.

    What going on with the run needs stays: a checkpoint that a stage to come starts from or names, data,
    pairs, votes, metrics. A run that is under way is left alone.
    """
    from self_rewarding_lm_pytorch.progress import Reporter
    from self_rewarding_lm_pytorch.run_folder.cleaning import leftovers, old_checkpoints
    from self_rewarding_lm_pytorch.run_folder.contents import read_run
    from self_rewarding_lm_pytorch.run_folder.lock import locked

    if not (run_dir / "manifest.json").is_file():
        raise ConfigError(f"{str(run_dir)!r} holds no run (manifest.json); name the folder a run wrote to")
    with locked(run_dir, Reporter(quiet=True)):
        manifest, plan = read_run(run_dir, fresh=False)
        assert manifest is not None  # its file is there
        found = leftovers(run_dir, manifest)
        if keep_last is not None:
            found += old_checkpoints(run_dir, manifest, keep_last, _needed(run_dir, manifest, plan))
        sizes = [each.num_bytes for each in found]
        if not dry_run:
            _remove(run_dir, manifest, found, f"clean --keep-last {keep_last}")
    rows: list[dict[str, Any]] = [
        {"path": str(each.path.relative_to(run_dir)), "what": each.what, "bytes": size}
        for each, size in zip(found, sizes, strict=True)
    ]
    if as_json:
        echo(
            json.dumps(
                {"run": str(run_dir), "dry_run": dry_run, "bytes": sum(sizes), "removed": rows}, indent=2
            )
        )
        return
    for row in rows:
        echo(f"{_shown(row['bytes']):>12}  {row['path']}  ({row['what']})")
    verb = "would be removed" if dry_run else "removed"
    echo(f"{_shown(sum(sizes))} {verb} from {run_dir}" if rows else f"{run_dir} holds nothing to remove")


def _remove(run: Path, manifest: dict[str, Any], found: list[Removable], why: str) -> None:
    """Each checkpoint that goes is noted first, so that its absence is known for what it is."""
    from self_rewarding_lm_pytorch.data.files import write_json
    from self_rewarding_lm_pytorch.run_folder.cleaning import remove

    stages = sorted({each.stage for each in found if each.stage})
    for number in stages:
        manifest["stages"][number - 1]["removed"] = why
    if stages:
        write_json(run / "manifest.json", manifest)
    for each in found:
        try:
            remove(each)
        except OSError as error:
            raise CheckpointError(
                f"{each.path} could not be removed ({error.strerror or error}); what was removed before it "
                "is gone, and the rest stays. Give this user the right to write there, and clean again"
            ) from error


def _needed(run: Path, manifest: Mapping[str, Any], plan: Any) -> set[str]:
    """Stages whose models the stages to come name. plan: resolved."""
    from self_rewarding_lm_pytorch.config import load_plan
    from self_rewarding_lm_pytorch.run_folder.cleaning import named_in_paths

    stages = manifest["stages"]
    parts = plan["stages"] if isinstance(plan, dict) and isinstance(plan.get("stages"), list) else []
    ahead = [n for n in range(1, len(parts) + 1) if n > len(stages) or stages[n - 1]["state"] != "done"]
    texts = [parts[n - 1] for n in ahead]
    found = named_in_paths([plan.get("report_card") if parts else None, *texts], manifest)
    try:
        loaded = load_plan(run / "plan.yaml").stages
        return found | {name for n in ahead for name in loaded[n - 1].past_models().values()}
    except (SelfRewardingError, IndexError):  # its objects came from Python: every text may be a stage's name
        return found | {text for part in texts for text in _settings(part)}


def _settings(value: Any) -> Iterator[str]:
    """The texts of a stage's settings; its name, kind and loss are no other stage's name."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key not in ("name", "kind", "loss"):
                yield from _settings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _settings(part)
    elif isinstance(value, str):
        yield value


def _shown(num_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes} bytes"

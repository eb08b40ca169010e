"""What a run wrote into its folder: read again, or removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch.errors import CheckpointError

_FOLDERS = ("stages", "evaluation", "initial", "report_cards")


def read_run(folder: Path, fresh: bool) -> tuple[dict[str, Any] | None, Any]:
    """The manifest and the plan of the run that is there; (None, None) where there is none to go on with."""
    file = folder / "manifest.json"
    left = [name for name in _FOLDERS if (folder / name).exists()]
    if left and not file.exists():
        places = " and ".join(str(folder / name) for name in left)
        raise CheckpointError(
            f"{folder} holds {', '.join(left)} but no manifest.json that says of what run they are, and a "
            f"new run would go on from them; remove {places}, or name another run folder"
        )
    if fresh or not file.exists():
        return None, None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for stage in manifest["stages"]:
            if not all(isinstance(stage[key], str) for key in ("name", "kind", "state")):
                raise ValueError(f"{stage!r:.100} is no stage's entry in its manifest.json")
        return manifest, yaml.safe_load((folder / "plan.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"the run in {folder} cannot be continued: {error}. Begin afresh (--fresh), or use another "
            "folder."
        ) from error


def refuse_plan_inside(folder: Path, base: Path | None) -> None:
    """Raises CheckpointError where the plan that is run, which lies in `base`, would be written over."""
    is_inside = base is not None and base.resolve() == folder.resolve()
    if is_inside and (folder / "plan.yaml").exists() and not (folder / "manifest.json").exists():
        raise CheckpointError(
            f"the run folder {folder} is the one your plan lies in, and its plan.yaml would be written over "
            "by the run's own; name a folder for the run alone, as run: runs/first"
        )


def clear_run(folder: Path) -> None:
    """Removes what a run wrote here, and nothing else; the manifest last, so that this can be cut off."""
    file = folder / "manifest.json"
    if not file.exists():
        return
    for name in ("plan.yaml", "metrics.jsonl", "alarms.jsonl", "summary.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    for name in (*_FOLDERS, "trackers"):  # what stayed would be taken for the new run's, so an error is one
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    for name in _published_files(file):
        (folder / name).unlink(missing_ok=True)
    file.unlink()


def _published_files(manifest: Path) -> list[str]:
    """N.KIND.safetensors, which the published interface puts beside the stages."""
    try:
        stages = json.loads(manifest.read_text(encoding="utf-8"))["stages"]
        return [f"{number}.{stage['kind']}.safetensors" for number, stage in enumerate(stages, 1)]
    except (OSError, ValueError, KeyError, TypeError):
        return []

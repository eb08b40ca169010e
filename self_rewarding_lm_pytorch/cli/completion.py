"""What the shell offers where a recipe, a plan or an override is typed; reads names alone, no library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from self_rewarding_lm_pytorch.errors import ConfigError


def recipes_from(incomplete: str) -> list[str]:
    """The recipes' names."""
    from self_rewarding_lm_pytorch.plans.recipe_texts import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def plans_from(incomplete: str) -> list[str]:
    """YAML files and folders, as far as they are typed."""
    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") else typed.parent
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    names = [f"{path}/" if path.is_dir() else str(path) for path in found if _may_be_a_plan(path)]
    return [name for name in names if name.startswith(incomplete)]


def _may_be_a_plan(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or path.suffix in (".yaml", ".yml"))


def overrides_from(ctx: typer.Context, incomplete: str) -> list[str]:
    """The keys that the plan on the command line has, `stages.NAME.` for each of its stages."""
    from self_rewarding_lm_pytorch.plans.yaml import read_yaml

    plan = ctx.params.get("plan")
    try:
        raw: Any = read_yaml(Path(str(plan))) if plan is not None else {}
    except ConfigError:
        raw = {}
    offered = [f"{key}=" for key in ("model", "run", "seed", "scale")]
    if isinstance(raw, Mapping):
        offered += [key for stage in _stages(raw) for key in _keys(stage)]
    return [key for key in dict.fromkeys(offered) if key.startswith(incomplete)]


def _stages(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    stages = raw.get("stages")
    return [stage for stage in stages if isinstance(stage, Mapping)] if isinstance(stages, list) else []


def _keys(stage: Mapping[str, Any]) -> list[str]:
    name = stage.get("name", stage.get("kind"))
    inner = [key for key in stage if key not in ("name", "kind", "like")]
    return [
        f"stages.{name}.{key}" + ("." if isinstance(stage[key], Mapping) else "=") for key in map(str, inner)
    ]

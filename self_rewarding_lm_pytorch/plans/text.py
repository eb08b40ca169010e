"""A resolved plan as people read it: every default visible, objects by their names."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel


def plan_text(plan: BaseModel) -> str:
    """The resolved plan as YAML, which is a plan again: every default visible but functions, which only code
    can give; objects appear by their qualified names."""
    return yaml.safe_dump(_shown(plan), sort_keys=False, allow_unicode=True, width=100)


def _shown(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        names = [n for n, f in fields if not (f.exclude or (callable(f.default) and _is_default(value, n)))]
        names.sort(key=lambda name: name not in ("name", "kind"))  # what it is comes first
        return {name: _shown(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _shown(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        if len(value) > 20:
            return f"<{len(value)} items>"
        return [_shown(part) for part in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value.value if isinstance(value, Enum) else value
    return str(value) if isinstance(value, Path) else _qualified_name(value)


def _is_default(settings: BaseModel, name: str) -> bool:
    return getattr(settings, name) is type(settings).model_fields[name].default


def _qualified_name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"<{named.__module__}.{named.__qualname__}>"

"""What the settings' own sources say about them: the comments beside and above fields, and docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from functools import cache

from pydantic import BaseModel

_ENTRY = re.compile(r"^([a-z_, ]+): (.+(?:\n(?: +.+|(?![a-z_, ]+: ).+))*)", re.MULTILINE)


def field_description(model: type[BaseModel], name: str) -> str:
    """Of a field, as the class that declared it says, or one above that; empty where none does."""
    for kind in model.__mro__:
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            said = _said(kind).get(name)
            if said:
                return said
    return ""


def class_description(model: type[BaseModel]) -> str:
    """The first paragraph of its docstring, in one line."""
    text = inspect.cleandoc(model.__dict__.get("__doc__") or "")
    return " ".join(text.split("\n\n")[0].split())


@cache
def _said(kind: type[BaseModel]) -> dict[str, str]:
    """Field -> what the class itself says: its docstring's `name: ...`, else the comment at the field."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    found = _comments(source)
    for names, text in _ENTRY.findall(inspect.cleandoc(kind.__doc__ or "")):
        said = " ".join(text.split())
        found |= {name: said for name in names.replace(" ", "").split(",") if name in kind.model_fields}
    return found


def _comments(source: str) -> dict[str, str]:
    lines = source.splitlines()
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for node, behind in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        end = (node.end_lineno or node.lineno) - 1
        beside = lines[end].encode()[node.end_col_offset :].decode().strip()
        above: list[str] = []
        place = node.lineno - 2
        while place >= 0 and lines[place].lstrip().startswith("#"):
            above.insert(0, lines[place].strip().lstrip("# "))
            place -= 1
        if isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant):
            above = str(behind.value.value).split()
        said = beside.lstrip("# ") if beside.startswith("#") else " ".join(above)
        if said and not said.startswith(("type:", "noqa")):
            found[node.target.id] = said
    return found

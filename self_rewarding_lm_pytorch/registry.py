"""Kind name -> class or function. Families of parts register here; an unknown name lists the known."""

import difflib
import importlib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from self_rewarding_lm_pytorch.errors import ConfigError

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """A family's table: names to "module:attribute", imported only when asked for."""

    def __init__(self, family: str, entries: dict[str, str]) -> None:
        self.family = family
        self._entries = entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Part:
        if name not in self._entries:
            raise ConfigError(unknown_name(self.family, name, self._entries))
        module, _, attribute = self._entries[name].partition(":")
        part: Part = getattr(importlib.import_module(module), attribute)
        return part


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not in a table, with the nearest one that is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}; known: {', '.join(names)}.{hint}"

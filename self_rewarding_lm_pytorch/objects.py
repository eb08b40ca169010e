"""Objects that a plan names: `file.py:name` or `package.module:name`, one loader for all of them."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.registry import unknown_name

_REFERENCE = re.compile(r"(.+):([^\W\d]\w*(?:\.[^\W\d]\w*)*)", re.DOTALL)
_base: ContextVar[Path | None] = ContextVar("folder of the plan that is read", default=None)
_modules: dict[tuple[str, str], ModuleType] = {}  # by path and content


def is_reference(value: object) -> bool:
    """Whether a text has the form `file.py:name` or `package.module:name`."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


@contextmanager
def beside(base: Path | None) -> Iterator[None]:
    """Files of references are looked for in this folder first, unless `load_object` is told another."""
    token = _base.set(base)
    try:
        yield
    finally:
        _base.reset(token)


def folder_near(name: str, base: Path | None = None) -> str:
    """The model's folder of that name beside the plan; else the name, which may be another folder or a hub's.

    base: the plan's folder. Default: see `beside`. A `~` at the beginning is the user's folder.
    """
    first = _base.get() if base is None else base
    with suppress(RuntimeError):  # nobody's folder is known
        name = str(Path(name).expanduser()) if name.startswith("~") else name
    with suppress(OSError):  # too long for a file's name
        if first is not None and (first / name).is_dir():
            return str(first / name)
    return name


def load_object(reference: str, *, what: str, wanted: str, base: Path | None = None) -> Any:
    """The object that `file.py:name` or `package.module:name` names. Its file is run, once for what it holds.

    what: its part in a plan, as messages call it. wanted: what the name should be ("a function that ...").
    base: a relative file is looked for there first, then in the working directory. Default: see `beside`.

    Raises ConfigError where there is no such file, module or name, or importing it fails.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ConfigError(f"{what} {reference!r} must be file.py:name or package.module:name of {wanted}")
    place, name = found.groups()
    try:
        part: Any = _module_of_file(what, reference, place, base) if _is_file(place) else import_module(place)
    except ConfigError:
        raise
    except Exception as error:  # anybody's file may fail in any way
        raise ConfigError(
            f"{what} {reference!r} cannot be loaded: {error!r:.300}; give file.py:name or "
            f"package.module:name of {wanted}"
        ) from error
    for attribute in name.split("."):
        if not hasattr(part, attribute):
            known = [known for known in dir(part) if not known.startswith("_")] or ["nothing"]
            said = unknown_name("name", attribute, known) if len(known) < 20 else f"it has no {attribute!r}."
            raise ConfigError(f"{what} {reference!r} cannot be loaded: {said} Give file.py:name of {wanted}")
        part = getattr(part, attribute)
    return part


def text_of(name: str, *, what: str, base: Path | None = None) -> str:
    """A text file's content, found as `load_object` finds files. Raises ConfigError."""
    path = _path(what, name, name, base)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {name!r} cannot be read: {error}; give a file of UTF-8 text") from error


def made_by(factory: Callable[..., Any], options: Mapping[str, Any], *, what: str) -> Any:
    """What a class or function gives for these options, by name. Raises ConfigError where it fails."""
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of some classes in C
        parameters = {}
    takes_any = not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in () if takes_any else options:
        if name not in parameters:
            raise ConfigError(unknown_name(f"option of {what}", name, parameters or ["none"]))
    try:
        return factory(**options)
    except Exception as error:  # anybody's code
        given = ", ".join(f"{name}={value!r:.60}" for name, value in options.items()) or "no options"
        raise ConfigError(
            f"{what} cannot be made with {given}: {error!r:.300}. Give the options that it needs, or mend it"
        ) from error


def object_name(value: object) -> str:
    """What messages call an object that comes from Python."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', named)}"


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function takes an argument of this name."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _is_file(place: str) -> bool:
    return place.endswith(".py")


def _module_of_file(what: str, reference: str, place: str, base: Path | None) -> ModuleType:
    """The file as a module. What is run is what was read, so a changed file is another module."""
    path = _path(what, reference, place, base)
    source = path.read_bytes()
    key = (str(path.resolve()), hashlib.sha256(source).hexdigest())
    if key not in _modules:
        address = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
        _modules[key] = _run(path, source, f"{path.stem}_{address}")
    return _modules[key]


def _path(what: str, reference: str, place: str, base: Path | None) -> Path:
    first = _base.get() if base is None else base
    near = Path(place) if first is None else first / place
    path = near if near.exists() else Path(place)
    if not path.is_file():
        raise ConfigError(
            f"{what} {reference!r}: there is no file {str(path)!r}; relative names are looked for beside the "
            "plan, then in the working directory"
        )
    return path


def _run(path: Path, source: bytes, name: str) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None, path
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their module up there
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module

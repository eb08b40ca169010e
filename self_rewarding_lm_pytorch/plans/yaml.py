"""Plans as text in YAML 1.2's sense of a number, and containers copied while objects are shared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from self_rewarding_lm_pytorch.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML whose `1e-6` is a number, as in YAML 1.2 and JSON; PyYAML alone reads it as text.

    A key that is given twice is an error, as in YAML 1.2; PyYAML alone takes the last one in silence.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and name in lines and name != "<<":
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {name!r} is given twice, in line {lines[name]} and in line {line}, and only "
                    "one of them could count; remove one",
                )
            lines[name] = line
        return super().construct_mapping(node, deep)


_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def parsed_yaml(text: str) -> Any:
    """Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> Any:
    """A plan's file. Raises ConfigError where it cannot be read or is not YAML."""
    try:
        return parsed_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"plan {str(path)!r} cannot be read: {error.strerror}; give the path of a YAML file (the command "
            "`init` writes one)"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"plan {str(path)!r} is not YAML: {error}. Mend it there, and save it as UTF-8 text"
        ) from error


def copied(value: Any) -> Any:
    """Containers copied, objects (models, data sets, functions) shared."""
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if type(value) is list else value

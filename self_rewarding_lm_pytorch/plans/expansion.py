"""A plan's stages as they are written, to the stages that run: `like`, `--set`, `iterations` and `each`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.plans.yaml import copied, parsed_yaml
from self_rewarding_lm_pytorch.stages import is_stage_kind, kind_name, stage_kind

ITERATIONS, EACH = "iterations", "each"


def expanded(raw: dict[str, Any], overrides: Sequence[str], problems: list[str]) -> None:
    """Settles raw["stages"] in place; what is wrong is appended to problems.

    `like: NAME` is settled first, then overrides, then `iterations: N`, which makes NAME-1 to NAME-N.
    An override of NAME holds for all of them, one of NAME-2 for that one, whichever comes first.
    """
    raw["stages"] = _inherited(raw.get("stages"), problems)
    later = [override for override in overrides if _is_of_an_iteration(raw["stages"], override)]
    for override in overrides:
        if override not in later:
            _apply(raw, override, problems)
    raw["stages"] = [
        one for number, entry in enumerate(raw["stages"], 1) for one in _iterated(entry, number, problems)
    ]
    for override in later:
        _apply(raw, override, problems)
    if raw["stages"] == [] and not problems:
        problems.append("stages: a plan needs a list of at least one stage")


def _inherited(entries: Any, problems: list[str]) -> list[Any]:
    """Each stage named and its training settings in one place; `like: NAME` starts from an earlier stage."""
    if not isinstance(entries, list) or not entries:
        problems.append("stages: a plan needs a list of at least one stage")
        return []
    done: list[Any] = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            done.append(entry)
            continue
        below: dict[str, Any] = {}
        if "like" in entry:
            named = {e["name"]: e for e in done if isinstance(e, Mapping) and isinstance(e.get("name"), str)}
            if str(entry["like"]) in named:
                below = copied(named[str(entry["like"])])
            else:
                known = ", ".join(named) or "none"
                problems.append(f"stage {number}: like: {entry['like']!r} names no earlier stage ({known})")
        own = {key: value for key, value in entry.items() if key != "like"}
        own = _gathered(own, own.get("kind", below.get("kind")), f"stage {number}", problems)
        merged = _merged(below, own)
        done.append({"name": kind_name(merged.get("kind")), **merged})
    return done


def _gathered(entry: dict[str, Any], kind: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """Training settings that stand beside the stage's own, moved into `train`; twice is a problem."""
    if not is_stage_kind(kind):
        return entry
    try:
        known = stage_kind(kind)
    except ConfigError:  # of one's own; said where the stage is made
        return entry
    train = entry.get("train")
    for key in known.training_keys(entry):
        if isinstance(train, dict) and key in train:
            problems.append(f"{where}: {key} is given twice, in train and beside it; keep one")
    return known.with_training_keys_moved(entry)


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        old = below.get(key)
        both = (
            isinstance(value, Mapping) and isinstance(old, Mapping) and not (_is_each(value) or _is_each(old))
        )
        below[key] = _merged(dict(below[key]), value) if both else value
    return below


# iterations


def _is_each(value: Any) -> bool:
    """Whether a value is `{each: [...]}`, one for each iteration."""
    return isinstance(value, Mapping) and set(value) == {EACH}


def _iterated(entry: Any, number: int, problems: list[str]) -> list[Any]:
    """The stages of an entry with `iterations`; any other entry as it is."""
    if not isinstance(entry, dict):
        return [entry]
    where = f"stage {number} ({entry.get('name')})"
    given = {key: value for key, value in entry.items() if key != ITERATIONS}
    if ITERATIONS not in entry:
        for path, _ in _lists(given, ""):
            problems.append(f"{where}: {path} is given for each iteration, but the stage says no iterations")
        return [entry]
    count = entry[ITERATIONS]
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 1000:
        problems.append(f"{where}: iterations={count!r} must be a whole number from 1 to 1000")
        return [given]
    wrong = [(path, values) for path, values in _lists(given, "") if _length(values) != count]
    for path, values in wrong:
        problems.append(
            f"{where}: {path} is given for each of {_length(values)} iterations, but iterations is {count}; "
            "give one value each"
        )
    if wrong:
        return []
    return [{**copied(_chosen(given, i)), "name": f"{given.get('name')}-{i + 1}"} for i in range(count)]


def _lists(value: Any, path: str) -> list[tuple[str, Any]]:
    """Every `{each: values}` within, with where it stands."""
    if _is_each(value):
        return [(path, value[EACH])]
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        parts = list(value.items())
    elif type(value) is list:
        parts = list(enumerate(value, 1))
    return [found for key, part in parts for found in _lists(part, f"{path}.{key}" if path else str(key))]


def _length(values: Any) -> int:
    return len(values) if isinstance(values, list | tuple) else 0


def _chosen(value: Any, iteration: int) -> Any:
    """The value in one iteration, from 0."""
    if _is_each(value):
        return value[EACH][iteration]
    if isinstance(value, dict):
        return {key: _chosen(part, iteration) for key, part in value.items()}
    return [_chosen(part, iteration) for part in value] if type(value) is list else value


# --set


def _is_of_an_iteration(entries: list[Any], override: str) -> bool:
    """Whether `stages.NAME-2.key=value` speaks of one iteration of the stage NAME."""
    place, _, rest = override.partition("=")[0].partition(".")
    name = rest.partition(".")[0]
    named = {e.get("name"): e for e in entries if isinstance(e, dict)}
    stem, dash, number = name.rpartition("-")
    return place == "stages" and name not in named and bool(dash) and number.isdigit() and stem in named


def _apply(raw: dict[str, Any], override: str, problems: list[str]) -> None:
    """`a.b.c=value`; the value is read as YAML. Stages go by name, or by number from 1 as written."""
    path, equals, text = override.partition("=")
    if not equals:
        problems.append(f"--set {override!r} must be key=value")
        return
    try:
        value = parsed_yaml(text)
    except yaml.YAMLError:
        value = text  # `name=a: b` and the like: not YAML, so text
    *parents, last = path.split(".")
    place: Any = raw
    for key in parents:
        within, place = place, _step_into(place, key)
        if place is None:
            problems.append(f"--set {override!r}: there is no {key!r} in the plan{_known_in(within)}")
            return
    if not isinstance(place, dict):
        problems.append(f"--set {override!r}: {parents[-1]!r} holds no settings")
        return
    place[last] = value
    raw["stages"] = [_moved(entry) for entry in raw["stages"]]


def _moved(entry: Any) -> Any:
    """A stage's training settings gathered again: `--set stages.x.beta=1` is over `train: {beta: 2}`."""
    return _gathered(entry, entry.get("kind"), "", []) if isinstance(entry, dict) else entry


def _step_into(place: Any, key: str) -> Any:
    if isinstance(place, dict):
        if place.get(key) is None:  # `judge: null` as well
            place[key] = {}
        return place[key]
    if isinstance(place, list):
        named = (entry for entry in place if isinstance(entry, dict) and entry.get("name") == key)
        by_number = place[int(key) - 1] if key.isdigit() and 0 < int(key) <= len(place) else None
        return next(named, by_number)
    return None


def _known_in(place: Any) -> str:
    """Of a list, what may be named there: numbers from 1, and names where the entries have them."""
    if not isinstance(place, list):
        return ""
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in place]
    known = [f"{n} ({name})" if name else str(n) for n, name in enumerate(names, 1)]
    return f"; known, by number or name: {', '.join(known) or 'none'}"

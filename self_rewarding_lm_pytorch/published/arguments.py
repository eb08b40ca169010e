"""Keyword dictionaries of the published interface: an unknown key is an error that lists the known."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch.utils.data import ConcatDataset, Dataset

from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.registry import unknown_name
from self_rewarding_lm_pytorch.training.early_stopping import EarlyStopper

_BETA_NAMES = ("beta", "λ", "lam", "spin_λ", "dpo_beta")


def checked(where: str, given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """`given` as a dict, or a ConfigError for the first key that is not known."""
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(unknown_name(f"key of {where}", key, known))
    return dict(given)


@contextmanager
def told(where: str) -> Iterator[None]:
    """What pydantic finds wrong inside is a ConfigError that names the value and whose setting it is."""
    try:
        yield
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'settings'}={each['input']!r:.80}: "
            + each["msg"].removeprefix("Value error, ")
            for each in error.errors()
        ]
        raise ConfigError(f"{where} cannot be used: {'; '.join(problems)}") from error


def checked_arguments(
    where: str, given: Mapping[str, Any], function: Callable[..., Any], without: Iterable[str] = ()
) -> dict[str, Any]:
    """The same for keys that are passed on to a function; `without` are not the caller's to give."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return dict(given)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(given)
    return checked(where, given, [name for name in parameters if name not in set(without)])


def accelerate_arguments(where: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same for those of accelerate.Accelerator, which takes half a second to import."""
    if not given:
        return {}
    from accelerate import Accelerator

    return checked_arguments(f"{where}.accelerate_kwargs", given, Accelerator)


def filter_settings(where: str, function: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A filter and its arguments -> settings of a stage."""
    if callable(function) and kwargs:
        logits = next(iter(inspect.signature(function).parameters), "")
        checked_arguments(where, kwargs, function, without=[logits])
    return {"filter_fn": function, "filter_kwargs": dict(kwargs)}


def beta_of(where: str, given: Mapping[str, Any], default: float, known: Iterable[str] = ()) -> float:
    """beta under any of its spellings; λ is SPIN's."""
    values = checked(where, given, [*_BETA_NAMES, *known])
    found = {name: float(values[name]) for name in _BETA_NAMES if name in values}
    if len(set(found.values())) > 1:
        raise ConfigError(f"{where} gives beta twice, with different values: {found}; give it once")
    return next(iter(found.values()), default)


def training_settings(where: str, kwargs: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """trainer_kwargs of any trainer -> settings of a stage. defaults: the trainer's own."""
    values = {**defaults, **checked(where, kwargs, defaults)}
    adam = ("params", "lr", "weight_decay")
    checked_arguments(f"{where}['adam_kwargs']", values["adam_kwargs"], torch.optim.AdamW, without=adam)
    stopper = values.get("early_stopper_kwargs", {})
    checked_arguments(
        f"{where}['early_stopper_kwargs']", stopper, EarlyStopper, without=("evaluate", "every")
    )
    batch_size, accumulation = values["batch_size"], values["grad_accum_steps"]
    return {
        "batch_size": batch_size * accumulation,
        "micro_batch_size": batch_size,
        "learning_rate": values["start_learning_rate"],
        "end_learning_rate": min(values["end_learning_rate"], values["start_learning_rate"]),
        "weight_decay": values["weight_decay"],
        "optimizer_kwargs": dict(values["adam_kwargs"]),
    }


def one_dataset(dataset: Any) -> Any:
    """Several data sets in a list are joined; a list of items is left as it is."""
    if isinstance(dataset, list) and dataset and all(_is_dataset(part) for part in dataset):
        return ConcatDataset(dataset)
    return dataset


def _is_dataset(part: Any) -> bool:
    """Items are tuples, lists, mappings or text; whatever else can be indexed is a data set."""
    is_item = isinstance(part, tuple | list | Mapping | str | torch.Tensor)
    return isinstance(part, Dataset) or (not is_item and hasattr(part, "__getitem__"))


class IgnoringItems:
    """(ids, prompt length or mask) items in which tokens equal to `ignore_index` carry no loss."""

    def __init__(self, source: Any, ignore_index: int) -> None:
        self._source = source
        self._ignore_index = ignore_index

    def __iter__(self) -> Iterator[Any]:
        for item in read_rows(self._source):
            yield self._ignoring(*item) if isinstance(item, tuple | list) and len(item) == 2 else item

    def _ignoring(self, ids: Any, prompt: Any) -> tuple[Any, torch.Tensor]:
        prompt = torch.as_tensor(prompt)
        if prompt.ndim == 0:
            prompt = torch.arange(len(ids)) < prompt
        return ids, prompt.bool() | (torch.as_tensor(ids) == self._ignore_index)


class PaddedItems:
    """Items (ids, ..., prompt length or mask) padded with a `pad_id` that could be a token.

    Where such an item ends cannot be told from its ids, so one that ends with pad_id and brings no
    mask is refused.
    """

    def __init__(self, source: Any, pad_id: int) -> None:
        self._source = source
        self._pad_id = pad_id

    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(read_rows(self._source)):
            if isinstance(item, tuple | list):
                self._check(number, *item)
            yield item

    def _check(self, number: int, *item: Any) -> None:
        *rows, prompt = item
        ends = [int(row[-1]) for row in map(torch.as_tensor, rows) if row.numel()]
        if torch.as_tensor(prompt).ndim == 0 and self._pad_id in ends:
            raise DataError(
                f"item {number} ends with pad_id {self._pad_id}, which could be padding or a real token; "
                "give a mask (True on what carries no loss) in place of the prompt length, or pad with a "
                "negative id"
            )


def with_padding(source: Any, pad_id: int | None) -> Any:
    """The source, its items checked where `pad_id` is no negative number."""
    return source if source is None or pad_id is None or pad_id < 0 else PaddedItems(source, pad_id)

"""Keyword dictionaries of the published interface: an unknown key is an error that lists the known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils.data import ConcatDataset, Dataset

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.registry import unknown_name

_BETA_NAMES = ("beta", "λ", "lam", "spin_λ", "dpo_beta")


def checked(where: str, given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """`given` as a dict, or a ConfigError for the first key that is not known."""
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(unknown_name(f"key of {where}", key, known))
    return dict(given)


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
    if isinstance(dataset, list) and dataset and all(isinstance(part, Dataset) for part in dataset):
        return ConcatDataset(dataset)
    return dataset


class IgnoringItems(Dataset[Any]):
    """(ids, prompt length or mask) items in which tokens equal to `ignore_index` carry no loss."""

    def __init__(self, items: Any, ignore_index: int) -> None:
        self._items = items
        self._ignore_index = ignore_index

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        import torch

        ids, prompt = self._items[index]
        prompt = torch.as_tensor(prompt)
        if prompt.ndim == 0:
            prompt = torch.arange(len(ids)) < prompt
        return ids, prompt.bool() | (torch.as_tensor(ids) == self._ignore_index)

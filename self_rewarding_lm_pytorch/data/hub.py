"""Data sets of the Hugging Face hub, and folders that `datasets` saved; it is imported when asked to read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.data.sources import DataSource
from self_rewarding_lm_pytorch.data.splits import pieces
from self_rewarding_lm_pytorch.errors import DataError

_SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")


def is_saved(path: Path) -> bool:
    """Whether `datasets` saved this folder (`save_to_disk`)."""
    return path.is_dir() and any((path / name).is_file() for name in _SAVED)


def hub_rows(source: DataSource, base: Path | None) -> Iterator[Any]:
    """The rows of a data set named by `source.hub`, as they are asked for. Raises DataError.

    It is downloaded the first time, unless it is streamed.
    """
    if source.streaming:
        yield from _streamed(source, base)
    else:
        yield from _rows(_loaded(source, base), source)


def hub_hash(source: DataSource, base: Path | None) -> str:
    """SHA-256 of the Arrow files that hold the data set here; of a streamed one, of its commit or files."""
    if not source.streaming:
        return _digest([Path(file["filename"]) for file in _loaded(source, base).cache_files])
    if (folder := _folder(source, base)) is not None:
        return saved_hash(folder)
    return hashlib.sha256(f"{source.hub} {source.config} {_commit(source)}".encode()).hexdigest()


def saved_rows(path: Path, source: DataSource) -> Iterator[Any]:
    """The rows of a folder written by `save_to_disk`, as they are asked for. Raises DataError."""
    yield from _rows(_from_disk(path, source), source)


def saved_count(path: Path, source: DataSource) -> int:
    """How many rows `saved_rows` gives."""
    return len(source.picked(len(_from_disk(path, source)), of_slice=True))


def split_names(place: str, base: Path | None, config: str | None = None) -> list[str]:
    """The splits of a data set of the hub, or of a folder; none where a folder holds one data set alone."""
    datasets = _library(place)
    folder = _folder(DataSource(hub=place), base)
    try:
        if folder is not None and is_saved(folder):
            found = datasets.load_from_disk(str(folder))
            return list(found) if isinstance(found, datasets.DatasetDict) else []
        return list(datasets.get_dataset_split_names(str(folder or place), config))
    except Exception as error:  # as below
        raise DataError(f"the splits of {place!r} cannot be had: {_first_line(error)}") from error


def saved_hash(path: Path) -> str:
    """SHA-256 of the files in the folder, in order of name."""
    return _digest(sorted(file for file in path.rglob("*") if file.is_file()))


def _rows(dataset: Any, source: DataSource) -> Iterator[Any]:
    yield from dataset.select(source.picked(len(dataset), of_slice=True))


def _folder(source: DataSource, base: Path | None) -> Path | None:
    name = str(source.hub)
    return next((place for place in ((base or Path()) / name, Path(name)) if place.is_dir()), None)


def _loaded(source: DataSource, base: Path | None) -> Any:
    folder = _folder(source, base)
    if folder is not None and is_saved(folder):
        return _from_disk(folder, source)
    return _of_hub(source, folder, source.split)


def _of_hub(source: DataSource, folder: Path | None, split: str) -> Any:
    datasets, name = _library(str(source.hub)), str(source.hub)
    try:
        return datasets.load_dataset(
            str(folder or name),
            source.config,
            split=split,
            revision=source.revision,
            **({"streaming": True} if source.streaming else {}),
        )
    except Exception as error:  # the library raises of many families: missing, unreachable, split unknown
        raise DataError(
            f"the data set {name!r} (split {split!r}, config {source.config!r}) cannot be had: "
            f"{type(error).__name__}: {_first_line(error)}. Check its name and its splits on the hub, log in "
            "if access to it is restricted, or give a file or a folder that `datasets` saved"
        ) from error


def _streamed(source: DataSource, base: Path | None) -> Iterator[Any]:
    """A stream's length is not known, so a share or percentage of it is refused."""
    if source.needs_total:
        raise DataError(
            f"the data source {source.said()!r:.200} asks for a share of a data set that is streamed, "
            "whose length nobody knows; give numbers of rows (limit, skip, train[:1000]), or do not stream it"
        )
    folder = _folder(source, base)
    if folder is not None and is_saved(folder):
        yield from _rows(_from_disk(folder, source), source)
        return
    parts = (
        islice(
            _of_hub(source, folder, piece.name),
            int(piece.start or 0),
            int(piece.stop) if piece.stop else None,
        )
        for piece in pieces(source.split)
    )
    end = None if source.limit is None else source.skip + source.limit
    yield from islice(chain.from_iterable(parts), source.skip, end)


def _commit(source: DataSource) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(str(source.hub), revision=source.revision).sha)
    except Exception as error:  # as above
        raise DataError(
            f"the commit of the data set {source.hub!r} cannot be had: {_first_line(error)}"
        ) from error


def _from_disk(path: Path, source: DataSource) -> Any:
    datasets = _library(str(path))
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # as above
        raise DataError(
            f"{path} cannot be read as a data set that `datasets` saved: {_first_line(error)}"
        ) from error
    known = found if isinstance(found, datasets.DatasetDict) else {"train": found, str(found.split): found}
    parts = []
    for piece in pieces(source.split):
        if piece.name not in known:
            names = ", ".join(map(str, known))
            raise DataError(f"{path} has no split {piece.name!r}; it has {names}: name one, as split: NAME")
        whole = known[piece.name]
        parts.append(whole.select(range(len(whole))[piece.of(len(whole))]))
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _library(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name!r} is read with the library `datasets`, which is not installed; pip install datasets"
        ) from error
    return datasets


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")


def _digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()

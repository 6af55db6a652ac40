"""Readers of datasets, by name: one file of this folder for each.

Importing this imports neither numpy nor pandas.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.readers.base import Dataset, Reader, check_path, files_of, version_of
from fedjob.common.readers.csv import CsvReader
from fedjob.common.readers.files import FilesReader
from fedjob.common.readers.images import IMAGE_SUFFIXES, ImagesReader
from fedjob.common.readers.mnist import MnistReader
from fedjob.common.readers.npz import NpzReader
from fedjob.common.readers.parquet import ParquetReader

__all__ = [
    "READERS",
    "Dataset",
    "Reader",
    "describe",
    "find_reader",
    "fitting_reader",
    "guess_reader",
    "open_dataset",
]

READERS: Mapping[str, Reader] = {
    reader.name: reader
    for reader in (CsvReader(), ParquetReader(), NpzReader(), MnistReader(), ImagesReader(), FilesReader())
}

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".data": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".npz": "npz",
}


def find_reader(name: str) -> Reader:
    """Return the reader of that name.

    Raises:
        SpecError: there is none; the nearest is named.
    """
    if name not in READERS:
        nearest = difflib.get_close_matches(name, READERS, n=1, cutoff=0.0)[0]
        raise SpecError(
            f"there is no reader {name!r}; the nearest is {nearest!r}, and all are {', '.join(READERS)}"
        )
    return READERS[name]


def guess_reader(path: str | Path) -> str:
    """Return the name of the reader that fits a path.

    Raises:
        SpecError: nothing readable there, or no reader fits.
    """
    checked = check_path(Path(path))
    names = [child.name for child in checked.iterdir()] if checked.is_dir() else [checked.name]
    if any("-idx3-ubyte" in name or "-idx1-ubyte" in name for name in names):
        return "mnist"
    if checked.is_dir():
        if any(child.is_dir() for child in checked.iterdir()):
            return "images"
        kinds = {_SUFFIXES.get(child.suffix.lower(), "") for child in checked.iterdir()}
        if kinds in ({"csv"}, {"parquet"}):
            return kinds.pop()
        raise SpecError(f"no reader fits the folder {checked}: name one of {', '.join(READERS)}")
    suffixes = [suffix.lower() for suffix in checked.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".bz2", ".xz", ".zip", ".zst"):
        suffixes.pop()
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise SpecError(f"no reader fits {checked.name}: name one of {', '.join(READERS)}")


def fitting_reader(path: str | Path) -> str:
    """Return the name of the reader for data that nobody described: the one guessed, else plain files.

    Raises:
        SpecError: nothing readable there.
    """
    checked = check_path(Path(path))
    try:
        guessed = guess_reader(checked)
    except SpecError:
        return "files"
    if guessed == "images" and not any(file.suffix.lower() in IMAGE_SUFFIXES for file in files_of(checked)):
        return "files"
    return guessed


def open_dataset(info: Mapping[str, Any]) -> Dataset:
    """Open a dataset from plain data.

    Args:
        info: `path`, and `name`, `reader`, `tags` and `options` where they are
            known; without a reader it is guessed. `preprocess`: steps as plain data, and `learned`: what
            was found for them.

    Raises:
        SpecError: there is no path, nothing readable there, or an option is wrong.
    """
    path = info.get("path")
    if not path:
        raise SpecError("a dataset needs a path")
    reader = find_reader(info.get("reader") or guess_reader(path))
    dataset = reader.open(
        path, info.get("options") or {}, name=str(info.get("name", "")), tags=tuple(info.get("tags") or ())
    )
    if not info.get("preprocess"):
        return dataset
    from fedjob.common.preprocess.prepared import prepare

    return prepare(dataset, info["preprocess"], info.get("learned") or ())


def describe(
    path: str | Path, reader: str | None = None, options: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what an owner registers of a dataset, as plain data.

    Returns:
        `reader`, `num_rows`, `size_bytes`, `columns` (`[{"name", "type"}]`) and
        `version`, which changes when the data changes.

    Raises:
        SpecError: it can't be read with that reader and those options.
    """
    name = reader or guess_reader(path)
    dataset = find_reader(name).open(path, options)
    return {
        "reader": name,
        "num_rows": dataset.num_rows,
        "size_bytes": sum(file.stat().st_size for file in files_of(dataset.path)),
        "columns": dataset.columns,
        "version": version_of(dataset.path),
    }

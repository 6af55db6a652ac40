"""The loader of datasets: opens one with its reader, its loading plan and its preprocessing, and describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjob.common.errors import EmptyData, MissingPackage, SpecError
from fedjob.data.inventory import counted
from fedjob.data.readers import find_reader, guess_reader
from fedjob.data.readers.base import Assets, Dataset, files_of, version_of
from fedjob.data.readers.loading_plan import loading_plan
from fedjob.data.shares import share_of, whole


def open_dataset(info: Mapping[str, Any]) -> Dataset:
    """Open a dataset from plain data.

    Args:
        info: `path`, and `name`, `reader`, `tags`, `options` and `loading` where they are
            known; without a reader it is guessed. `preprocess`: steps as plain data, and `learned`: what
            was found for them. `assets`: of a dataset of several tables or files a list of `name`, `path`,
            `reader` and `options`; the first is the one at `path`. `share`: the rows of a simulated node, see
            `data.shares`.

    Raises:
        SpecError: there is no path, nothing readable there, or an option is wrong.
    """
    dataset = _opened(info) if "share" not in info else share_of(info, _opened)
    if not info.get("preprocess"):
        return dataset
    from fedjob.data.preprocessing.prepared import prepare

    return prepare(dataset, info["preprocess"], info.get("learned") or ())


def open_whole(info: Mapping[str, Any]) -> Dataset:
    """Open the dataset that shares are taken of, and read it if it is a table: processes forked later have it then."""
    from fedjob.data.readers.table import TableDataset

    dataset = whole(info, _opened)
    if isinstance(dataset, TableDataset):
        dataset.frame()
    return dataset


def _opened(info: Mapping[str, Any]) -> Dataset:
    """Open a dataset as it was registered, before preprocessing."""
    path = info.get("path")
    if not path:
        raise SpecError("a dataset needs a path")
    reader = find_reader(info.get("reader") or guess_reader(path))
    dataset = reader.open(
        path, info.get("options") or {}, name=str(info.get("name", "")), tags=tuple(info.get("tags") or ())
    )
    if info.get("assets"):
        dataset.assets = _assets_of(dataset, info["assets"])
    if info.get("loading"):
        dataset = dataset.named(loading_plan(info["loading"]))
    return dataset


def _assets_of(dataset: Dataset, infos: Sequence[Mapping[str, Any]]) -> Assets:
    """Open the assets of a dataset; the first is the dataset itself, as it was registered."""
    first, *others = infos
    opened = {str(first["name"]): dataset}
    for info in others:
        opened[str(info["name"])] = open_dataset({**info, "name": f"{dataset.name}.{info['name']}"})
    return Assets(dataset.name, opened)


def describe(
    path: str | Path,
    reader: str | None = None,
    options: Mapping[str, str] | None = None,
    loading: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what an owner registers of a dataset, as plain data.

    Args:
        loading: a loading plan as plain data.

    Returns:
        `reader`, `num_rows`, `size_bytes`, `columns` (`[{"name", "type"}]`), `version`, which changes when
        the data changes; `notes`, sentences for the owner on how the data are read; and `counted`, lines for
        the owner on what was counted and what was skipped.

    Raises:
        SpecError: it can't be read with that reader and those options.
        EmptyData: it has no rows.
        MissingPackage: the reader needs a package that is not installed.
    """
    name = reader or guess_reader(path)
    try:
        dataset = open_dataset({"path": path, "reader": name, "options": options, "loading": loading})
        found = {
            "reader": name,
            "num_rows": dataset.num_rows,
            "size_bytes": sum(file.stat().st_size for file in files_of(dataset.path)),
            "columns": dataset.columns,
            "version": version_of(dataset.path),
            "notes": dataset.notes,
            "counted": counted(dataset),
        }
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"reader {name} needs the package {error.name}, which is not installed here: pip install 'fedjob[training]'"
        ) from error
    if not found["num_rows"]:
        raise EmptyData(f"{path} has no rows: expected one or more, read as {name}")
    return found

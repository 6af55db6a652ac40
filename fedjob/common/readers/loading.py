"""A loading plan: what the owner of a dataset says of names in it, so that one plan fits several nodes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import DecodeError, SpecError
from fedjob.common.readers.table import TableDataset

if TYPE_CHECKING:
    import pandas as pd

_PARTS = ("columns", "modalities")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingPlan:
    """Names that researchers use, and what they are called here.

    Args:
        columns: name for plans -> name of the column in the data; other columns keep theirs.
        modalities: name for plans -> names of folders, of which the first that a subject has counts.
    """

    columns: dict[str, str] = field(default_factory=dict)
    modalities: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(self.columns.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SpecError(f"a loading plan gives one name to each column; {twice[0]!r} has several")
        for modality, folders in self.modalities.items():
            if not folders:
                raise SpecError(
                    f"a loading plan names a folder or more for each modality; {modality!r} has none"
                )

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data; nothing for one that says nothing."""
        return {name: value for name, value in to_plain(self).items() if value}


def loading_plan(plain: Mapping[str, Any]) -> LoadingPlan:
    """Return the loading plan that plain data describes.

    Raises:
        SpecError: it is none; says what was expected.
    """
    try:
        unknown = sorted(set(plain) - set(_PARTS))
        if unknown:
            raise DecodeError(f"there is no part {unknown[0]!r}")
        modalities = {
            name: [folders] if isinstance(folders, str) else folders
            for name, folders in dict(plain.get("modalities") or {}).items()
        }
        return from_plain(LoadingPlan, {"columns": plain.get("columns") or {}, "modalities": modalities})
    except (DecodeError, TypeError, ValueError) as error:
        raise SpecError(
            'a loading plan is {"columns": {"name for plans": "name here"}, "modalities": {"name for plans": '
            f'["folder", ...]}}}}; {error}'
        ) from error


def read_loading_plan(path: Path) -> LoadingPlan:
    """Read a loading plan that an owner wrote, as JSON or TOML.

    Raises:
        SpecError: it can't be read, or is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        plain = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} can't be read as a loading plan, JSON or TOML: {error}") from error
    if not isinstance(plain, Mapping):
        raise SpecError(f"{path} is no loading plan: it holds a {type(plain).__name__}, not a table of names")
    return loading_plan(plain)


class MappedTable(TableDataset):
    """A table under the names that plans use."""

    def __init__(self, source: TableDataset, columns: Mapping[str, str]) -> None:
        super().__init__(source.path, source.options, name=source.name, tags=source.tags)
        self._source = source
        self._names = new_names(columns, [str(column["name"]) for column in source.columns])

    @property
    def num_rows(self) -> int:
        return self._source.num_rows

    @property
    def columns(self) -> list[dict[str, str]]:
        return [{**column, "name": self._names[column["name"]]} for column in self._source.columns]

    def read(self) -> pd.DataFrame:
        return self._source.frame().rename(columns=self._names)


def new_names(columns: Mapping[str, str], there: list[str]) -> dict[str, str]:
    """Return name here -> name for plans, of all columns.

    Raises:
        SpecError: a column is missing, or two would have one name.
    """
    named = {own: given for given, own in columns.items()}
    missing = [own for own in named if own not in there]
    if missing:
        raise SpecError(
            f"the loading plan names the column {missing[0]!r}, which is not there; there are {', '.join(there)[:300]}"
        )
    names = {own: named.get(own, own) for own in there}
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise SpecError(f"with the loading plan, two columns are called {twice!r}")
    return names


def loaded_by(dataset: Any, plain: Mapping[str, Any]) -> Any:
    """Return a dataset with the names of a loading plan.

    Raises:
        SpecError: this kind of data has no such names, or not these.
    """
    from fedjob.common.readers.medical_folder import MedicalFolderDataset

    plan = loading_plan(plain)
    if isinstance(dataset, MedicalFolderDataset):
        return dataset.named(plan.columns, plan.modalities)
    if isinstance(dataset, TableDataset) and not plan.modalities:
        return MappedTable(dataset, plan.columns)
    what = "modalities" if isinstance(dataset, TableDataset) else "columns or modalities"
    raise SpecError(f"dataset {dataset.name or dataset.path.name} has no {what} for a loading plan to name")

"""The assets of a registered dataset: named tables or files, each with its reader and its mock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedjob.common.errors import SpecError

MAX_ASSETS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredAsset:
    """One table or file of a dataset, as it is registered.

    Args:
        mock: path of a safe stand-in of the same form; empty for none.
        num_rows, size_bytes, columns: as found when it was described last; columns are `{name, type}`.
    """

    name: str
    path: str
    reader: str
    options: Mapping[str, str]
    mock: str = ""
    num_rows: int = 0
    size_bytes: int = 0
    columns: tuple[Mapping[str, Any], ...] = ()

    def public(self, max_columns: int) -> dict[str, Any]:
        """Return the description that researchers may read; it has no path."""
        return {
            "name": self.name,
            "reader": self.reader,
            "num_rows": self.num_rows,
            "columns": [dict(column) for column in self.columns[:max_columns]],
        }

    def opened_as(self, use: str) -> dict[str, Any]:
        """Return what a worker opens it by."""
        path = self.mock if use == "mock" else self.path
        return {"name": self.name, "path": path, "reader": self.reader, "options": dict(self.options)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedAssets:
    """Assets as an owner types them, by name, with what was typed for all of them or for one.

    Args:
        paths, mocks, readers: asset -> path, or name of a reader.
        options: asset -> options of its reader.
    """

    paths: Mapping[str, Path]
    mocks: Mapping[str, Path]
    readers: Mapping[str, str]
    options: Mapping[str, Mapping[str, str]]

    def described(
        self,
        *,
        min_rows: int,
        warn: Callable[[str], None],
        note: Callable[[str], None],
        report: Callable[[str], None],
    ) -> tuple[RegisteredAsset, ...]:
        """Open each asset once and return what is registered of them, in the order in which they were typed.

        Raises:
            SpecError: too many, mocks of some only, something that can't be read, or a table with fewer rows
                than `min_rows`.
        """
        if len(self.paths) > MAX_ASSETS:
            raise SpecError(f"a dataset has at most {MAX_ASSETS} assets, not {len(self.paths)}")
        if self.mocks and (missing := [name for name in self.paths if name not in self.mocks]):
            raise SpecError(
                f"a mock of {', '.join(missing)} is missing: all assets have one, or none; add --mock "
                f"{missing[0]}=PATH"
            )
        return tuple(self._described(name, min_rows, warn, note, report) for name in self.paths)

    def _described(
        self,
        name: str,
        min_rows: int,
        warn: Callable[[str], None],
        note: Callable[[str], None],
        report: Callable[[str], None],
    ) -> RegisteredAsset:
        from fedjob.data.loader import describe
        from fedjob.data.readers import fitting_reader

        path = self.paths[name].absolute()
        options = dict(self.options.get(name, {}))
        reader = self.readers.get(name) or fitting_reader(path)
        found = describe(path, reader, options)
        for sentence in found["notes"]:
            note(f"asset {name}: {sentence}")
        for line in found["counted"]:
            report(f"asset {name}: {line}")
        asset = RegisteredAsset(
            name=name,
            path=str(path),
            reader=reader,
            options=options,
            mock=str(self.mocks[name].absolute()) if self.mocks else "",
            num_rows=int(found["num_rows"]),
            size_bytes=int(found["size_bytes"]),
            columns=tuple(dict(column) for column in found["columns"]),
        )
        if asset.columns:
            check_rows(f"asset {name}", asset.num_rows, min_rows)
        if asset.mock:
            made_up = describe(asset.mock, reader, options)["columns"]
            if differences := differences_of(asset.columns, made_up):
                warn(f"the mock {asset.mock} is not of the form of {path}: {differences}")
        return asset


def check_rows(what: str, num_rows: int, min_rows: int) -> None:
    """Refuse data with fewer rows than their owner wants anything to be computed on.

    Raises:
        SpecError: they have fewer.
    """
    if num_rows < min_rows:
        raise SpecError(
            f"{what} has {num_rows} rows, fewer than --min-rows {min_rows}: nothing could run on it"
        )


def described_again(asset: RegisteredAsset) -> RegisteredAsset:
    """Return an asset as its data are now.

    Raises:
        SpecError: they can't be read any more as they are registered.
    """
    from fedjob.data.loader import describe

    found = describe(asset.path, asset.reader, dict(asset.options))
    return replace(
        asset,
        num_rows=int(found["num_rows"]),
        size_bytes=int(found["size_bytes"]),
        columns=tuple(dict(column) for column in found["columns"]),
    )


def differences_of(columns: Any, others: Any) -> str:
    """Describe how the columns of a mock differ from the data's; empty where they don't."""
    ours = {str(c["name"]): str(c["type"]) for c in columns}
    theirs = {str(c["name"]): str(c["type"]) for c in others}
    differences = [f"it lacks column {name!r}" for name in ours if name not in theirs]
    differences += [f"it has column {name!r}, which the data have not" for name in theirs if name not in ours]
    differences += [
        f"column {name!r} is {theirs[name]}, in the data {ours[name]}"
        for name in ours
        if theirs.get(name, ours[name]) != ours[name]
    ]
    if not differences and list(ours) != list(theirs):
        differences = ["its columns are in another order"]
    return "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")


def assets_to_plain(assets: tuple[RegisteredAsset, ...]) -> list[dict[str, Any]]:
    """Return assets as the node's database keeps them."""
    return [
        {
            **asset.opened_as("private"),
            "mock": asset.mock,
            "num_rows": asset.num_rows,
            "size_bytes": asset.size_bytes,
            "columns": [dict(column) for column in asset.columns],
        }
        for asset in assets
    ]


def assets_from_plain(plain: list[dict[str, Any]]) -> tuple[RegisteredAsset, ...]:
    """Return what `assets_to_plain` made plain."""
    return tuple(RegisteredAsset(**{**one, "columns": tuple(one["columns"])}) for one in plain)

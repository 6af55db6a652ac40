"""The registry of the datasets that a node's owner offers for computation.

`describe` opens the data and is called by the command line only: the daemon
answers searches from what was written down then, and imports no pandas.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import SpecError
from fedjob.common.types import Contact, contacts_from_plain, read_contacts
from fedjob.identity.keys import load_or_create_secret
from fedjob.node.data.assets import (
    RegisteredAsset,
    TypedAssets,
    assets_from_plain,
    assets_to_plain,
    check_rows,
    described_again,
    differences_of,
)
from fedjob.node.data.versions import Versions, keyed
from fedjob.node.storage.database import Database

MAX_PUBLIC_COLUMNS = 100

MAX_ANSWER_BYTES = 40 * 1024
MAX_TEXT_BYTES = 2000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_TAG = re.compile(r"[^\s,/]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredDataset:
    """One dataset as it is registered.

    Args:
        min_rows: nothing is computed on fewer rows than these.
        num_rows, size_bytes, columns: as found when it was described last; columns are `{name, type}`.
        version: of the data then, see `Versions`; of one that is not registered yet, their plain hash.
        max_weight: weight that its examples have together in a mean at most, 0 for no limit; however many a plan
            makes of its rows.
        loading: a loading plan as plain data: names for plans -> names in the data; empty for none.
        mock: path of a safe stand-in of the same form; empty for none.
        description: for researchers.
        assets: of a dataset of several named tables or files; the first is the one that is described here, and
            `size_bytes` counts all. Empty for a dataset of one.
        contacts: whom researchers ask about the data; the node's own where there are none.
    """

    name: str
    path: str
    reader: str
    tags: tuple[str, ...] = ()
    options: Mapping[str, str]
    loading: Mapping[str, Any] = field(default_factory=dict)
    mock: str = ""
    min_rows: int = 0
    num_rows: int = 0
    size_bytes: int = 0
    columns: tuple[Mapping[str, Any], ...] = ()
    version: str = ""
    max_weight: int = 0
    description: str = ""
    contacts: tuple[Contact, ...] = ()
    added: float = 0.0
    assets: tuple[RegisteredAsset, ...] = ()

    @property
    def least_rows(self) -> int:
        """The rows of the shortest of its tables; what a minimum of rows is held against."""
        return min(self.num_rows, *(asset.num_rows for asset in self.assets if asset.columns), self.num_rows)

    def parts(self, use: str = "private") -> dict[str, str]:
        """Return where its data lie, or its mocks: asset -> path; the name is empty for a dataset of one."""
        if not self.assets:
            return {"": self.mock if use == "mock" else self.path}
        return {asset.name: asset.mock if use == "mock" else asset.path for asset in self.assets}

    def public(self) -> dict[str, Any]:
        """Return the description that researchers may read; it has no path."""
        return {
            "name": self.name,
            "tags": list(self.tags),
            "reader": self.reader,
            "num_rows": self.num_rows,
            "size_bytes": self.size_bytes,
            "columns": [dict(column) for column in self.columns[:MAX_PUBLIC_COLUMNS]],
            "num_columns": len(self.columns),
            "has_mock": bool(self.mock),
            "min_rows": self.min_rows,
            "max_weight": self.max_weight,
            "description": self.description,
            "contacts": to_plain(self.contacts),
            "options": dict(self.options),
            "loading": dict(self.loading),
            **({"assets": self._public_assets()} if self.assets else {}),
        }

    def _public_assets(self) -> list[dict[str, Any]]:
        return [asset.public(MAX_PUBLIC_COLUMNS) for asset in self.assets]

    def opened_as(self, use: str) -> dict[str, Any]:
        """Return what a worker opens it by."""
        return {
            "name": self.name,
            "path": self.mock if use == "mock" else self.path,
            "reader": self.reader,
            "tags": list(self.tags),
            "options": dict(self.options),
            "loading": dict(self.loading),
            **({"max_weight": self.max_weight} if self.max_weight else {}),
            **({"assets": [asset.opened_as(use) for asset in self.assets]} if self.assets else {}),
        }


class Datasets:
    """The registry, in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @cached_property
    def _key(self) -> bytes:
        return load_or_create_secret(self._database.home / "keys" / "datasets")

    def versions(self) -> Versions:
        """Return what tells the versions of data at this node."""
        return Versions(self._key)

    def add(self, dataset: RegisteredDataset) -> None:
        """Register a dataset that was described just now; its version is from here on that of this node.

        Raises:
            SpecError: the name is taken.
        """
        with self._database.transaction():
            if self._database.row("SELECT 1 FROM datasets WHERE name = ?", (dataset.name,)):
                raise SpecError(
                    f"there is a dataset {dataset.name!r} already: remove it with "
                    f"`fedjob node data remove {dataset.name}` or choose another name"
                )
            self._database.execute(
                "INSERT INTO datasets (name, path, reader, tags, options, loading, mock, min_rows, num_rows, "
                "size_bytes, columns, version, max_weight, description, contacts, added, assets) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    dataset.name,
                    dataset.path,
                    dataset.reader,
                    pack(list(dataset.tags)),
                    pack(dict(dataset.options)),
                    pack(dict(dataset.loading)),
                    dataset.mock,
                    dataset.min_rows,
                    dataset.num_rows,
                    dataset.size_bytes,
                    pack([dict(column) for column in dataset.columns]),
                    keyed(self._key, dataset.version),
                    dataset.max_weight,
                    dataset.description,
                    pack(to_plain(dataset.contacts)),
                    dataset.added or time.time(),
                    pack(assets_to_plain(dataset.assets)),
                ),
            )

    def describe_anew(self, dataset: RegisteredDataset) -> None:
        """Replace what is known of the data of a registered dataset: rows, size, columns and version."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE datasets SET num_rows = ?, size_bytes = ?, columns = ?, version = ?, assets = ? WHERE name = ?",
                (
                    dataset.num_rows,
                    dataset.size_bytes,
                    pack([dict(column) for column in dataset.columns]),
                    dataset.version,
                    pack(assets_to_plain(dataset.assets)),
                    dataset.name,
                ),
            )

    def reword(
        self,
        name: str,
        *,
        tags: Iterable[str] | None = None,
        min_rows: int | None = None,
        max_weight: int | None = None,
        description: str | None = None,
        contact: str | None = None,
    ) -> RegisteredDataset:
        """Change what the owner says of a dataset, and return it; None leaves something as it is.

        Its data stay as they are, and with them its version and the grants for it.

        Raises:
            SpecError: there is no such dataset, or a word is none that `add` would take.
        """
        with self._database.transaction():
            known = self.get(name)
            now = replace(
                known,
                tags=known.tags if tags is None else tuple(dict.fromkeys(tags)),
                min_rows=known.min_rows if min_rows is None else min_rows,
                max_weight=known.max_weight if max_weight is None else max_weight,
                description=known.description if description is None else description,
                contacts=known.contacts if contact is None else read_contacts(contact),
            )
            _check_words(name, now.tags, now.min_rows, now.max_weight, now.description, contact or "")
            if min_rows is not None:
                check_rows(known.path, known.num_rows, min_rows)
            self._database.execute(
                "UPDATE datasets SET tags = ?, min_rows = ?, max_weight = ?, description = ?, contacts = ? "
                "WHERE name = ?",
                (
                    pack(list(now.tags)),
                    now.min_rows,
                    now.max_weight,
                    now.description,
                    pack(to_plain(now.contacts)),
                    name,
                ),
            )
        return now

    def all(self) -> list[RegisteredDataset]:
        """Return every dataset, by name."""
        return [_dataset(row) for row in self._database.rows("SELECT * FROM datasets ORDER BY name")]

    def find(self, name: str) -> RegisteredDataset | None:
        """Return the dataset of that name."""
        row = self._database.row("SELECT * FROM datasets WHERE name = ?", (name,))
        return None if row is None else _dataset(row)

    def get(self, name: str) -> RegisteredDataset:
        """Return the dataset of that name.

        Raises:
            SpecError: there is none; the nearest is named.
        """
        found = self.find(name)
        if found is None:
            names = [dataset.name for dataset in self.all()]
            near = get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; see `fedjob node data list`"
            raise SpecError(f"there is no dataset {name!r}{hint}")
        return found

    def remove(self, name: str) -> None:
        """Forget a dataset, and what was worked on of it; the data stay where they are.

        Raises:
            SpecError: there is none.
        """
        self.get(name)
        with self._database.transaction():
            for table, column in (("datasets", "name"), ("processed", "dataset"), ("failed", "dataset")):
                self._database.execute(f"DELETE FROM {table} WHERE {column} = ?", (name,))

    def search(self, tags: Iterable[str], name: str = "") -> list[RegisteredDataset]:
        """Return the datasets that have all of these tags, and that name if one is given."""
        wanted = set(tags)
        return [d for d in self.all() if wanted <= set(d.tags) and name in ("", d.name)]


def public_within(
    datasets: Iterable[RegisteredDataset],
    limit_bytes: int = MAX_ANSWER_BYTES,
    more: Callable[[RegisteredDataset], dict[str, Any]] = lambda dataset: {},
) -> list[dict[str, Any]]:
    """Return the public descriptions of datasets, cut so that they fit into a message: columns are left out first.

    Args:
        more: returns further entries of a dataset's description.
    """
    answer = [dataset.public() | more(dataset) for dataset in datasets]
    if len(pack(answer)) > limit_bytes:
        answer = [_without_columns(one) for one in answer]
    while len(pack(answer)) > limit_bytes:
        answer = answer[: len(answer) // 2]
    return answer


def _without_columns(public: dict[str, Any]) -> dict[str, Any]:
    """Return a public description that leaves columns out, of its assets too."""
    assets = [{**asset, "columns": []} for asset in public.get("assets", ())]
    return {**public, "columns": [], **({"assets": assets} if assets else {})}


def describe_cohort(
    name: str,
    typed: TypedAssets,
    *,
    tags: Iterable[str] = (),
    min_rows: int = 0,
    max_weight: int = 0,
    description: str = "",
    contact: str = "",
    warn: Callable[[str], None] = lambda text: None,
    note: Callable[[str], None] = lambda text: None,
    report: Callable[[str], None] = lambda text: None,
) -> RegisteredDataset:
    """Open a dataset of several named tables or files once and return what is registered of it.

    Args:
        typed: its assets; for the other arguments see `describe_dataset`.
        report: called with each line on what was counted and what was skipped.

    Raises:
        SpecError: see `describe_dataset`, and `TypedAssets.described`.
    """
    tags = tuple(dict.fromkeys(tags))
    _check_words(name, tags, min_rows, max_weight, description, contact)
    for asset in typed.paths:
        _check_words(asset)
    paths = {asset: str(path.absolute()) for asset, path in typed.paths.items()}
    version = Versions().of_parts(paths)  # before they are read: what is written meanwhile is another version
    assets = typed.described(min_rows=min_rows, warn=warn, note=note, report=report)
    first = assets[0]
    return RegisteredDataset(
        name=name,
        path=first.path,
        reader=first.reader,
        tags=tags,
        options=first.options,
        mock=first.mock,
        min_rows=min_rows,
        max_weight=max_weight,
        version=version,
        num_rows=first.num_rows,
        size_bytes=sum(asset.size_bytes for asset in assets),
        columns=first.columns,
        description=description,
        contacts=read_contacts(contact),
        added=time.time(),
        assets=assets,
    )


def describe_dataset(
    name: str,
    path: Path,
    *,
    tags: Iterable[str] = (),
    reader: str | None = None,
    options: Mapping[str, str] | None = None,
    loading: Mapping[str, Any] | None = None,
    mock: Path | None = None,
    min_rows: int = 0,
    max_weight: int = 0,
    description: str = "",
    contact: str = "",
    warn: Callable[[str], None] = lambda text: None,
    note: Callable[[str], None] = lambda text: None,
    report: Callable[[str], None] = lambda text: None,
) -> RegisteredDataset:
    """Open the data once and return what is registered of them.

    Args:
        loading: a loading plan as plain data.
        contact: as `read_contacts` reads it.
        note: called with each sentence on how the data were read.
        warn: called with a message where the mock's columns differ from the data's.
        report: called with each line on what was counted and what was skipped.

    Raises:
        SpecError: a name or tag that can't be one, a path or option that the reader can't use, or fewer
            rows than `min_rows`.
    """
    from fedjob.data.loader import describe
    from fedjob.data.readers import guess_reader

    tags = tuple(dict.fromkeys(tags))
    _check_words(name, tags, min_rows, max_weight, description, contact)
    path = path.absolute()
    chosen = reader or guess_reader(path)
    given = dict(options or {})
    version = Versions().of(str(path))  # before they are read: what is written meanwhile is another version
    found = describe(path, chosen, given, loading)
    for sentence in found["notes"]:
        note(sentence)
    columns = tuple(dict(column) for column in found.get("columns", ()))
    num_rows = int(found["num_rows"])
    check_rows(str(path), num_rows, min_rows)
    for line in found.get("counted", ()):
        report(line)
    if mock is not None:
        mock = mock.absolute()
        if differences := differences_of(columns, describe(mock, chosen, given, loading).get("columns", ())):
            warn(f"the mock {mock} is not of the form of {path}: {differences}")
    return RegisteredDataset(
        name=name,
        path=str(path),
        reader=chosen,
        tags=tags,
        options=given,
        loading=dict(loading or {}),
        mock="" if mock is None else str(mock),
        min_rows=min_rows,
        max_weight=max_weight,
        version=version,
        num_rows=num_rows,
        size_bytes=int(found.get("size_bytes", 0)),
        columns=columns,
        description=description,
        contacts=read_contacts(contact),
        added=time.time(),
    )


def described_anew(dataset: RegisteredDataset, version: str) -> RegisteredDataset:
    """Return a dataset as its data are now.

    Args:
        version: of the data, taken before this call.

    Raises:
        SpecError: they can't be read any more as they are registered.
    """
    from fedjob.data.loader import describe

    if dataset.assets:
        assets = tuple(map(described_again, dataset.assets))
        return replace(
            dataset,
            num_rows=assets[0].num_rows,
            size_bytes=sum(asset.size_bytes for asset in assets),
            columns=assets[0].columns,
            version=version,
            assets=assets,
        )
    found = describe(Path(dataset.path), dataset.reader, dict(dataset.options), dict(dataset.loading) or None)
    return replace(
        dataset,
        num_rows=int(found["num_rows"]),
        size_bytes=int(found.get("size_bytes", 0)),
        columns=tuple(dict(column) for column in found.get("columns", ())),
        version=version,
    )


def changes_of(before: RegisteredDataset, after: RegisteredDataset) -> str:
    """Return in words what is different about the data of a dataset; empty for nothing that is described."""
    if before.assets:
        pairs = zip(before.assets, after.assets, strict=True)
        each = {old.name: _changes(old, new) for old, new in pairs}
        return "; ".join(f"asset {name}: {changes}" for name, changes in each.items() if changes)
    return _changes(before, after)


def _changes(before: RegisteredDataset | RegisteredAsset, after: RegisteredDataset | RegisteredAsset) -> str:
    found = []
    if before.num_rows != after.num_rows:
        found.append(f"{after.num_rows} rows, {before.num_rows} before")
    old = {str(column["name"]): str(column["type"]) for column in before.columns}
    new = {str(column["name"]): str(column["type"]) for column in after.columns}
    gone, added = [name for name in old if name not in new], [name for name in new if name not in old]
    found += [f"without column {name!r}" for name in gone] + [
        f"with the new column {name!r}" for name in added
    ]
    found += [
        f"column {name!r} is {new[name]}, {old[name]} before"
        for name in old
        if name in new and new[name] != old[name]
    ]
    if not gone and not added and list(old) != list(new):
        found.append("with its columns in another order")
    return "; ".join(found[:5]) + ("; ..." if len(found) > 5 else "")


def _check_words(
    name: str,
    tags: Iterable[str] = (),
    min_rows: int = 0,
    max_weight: int = 0,
    description: str = "",
    contact: str = "",
) -> None:
    """Check the name, the tags, the numbers and the texts that an owner gives a dataset, or an asset its name."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            "a dataset is named by 1 to 63 of letters, digits, '.', '_' and '-', beginning with a letter or "
            f"digit; found {name[:80]!r}"
        )
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise SpecError(
                f"a tag has 1 to 64 characters without spaces, commas and slashes; found {tag[:80]!r}"
            )
    if min_rows < 0:
        raise SpecError(f"--min-rows is 0 or more, not {min_rows}")
    if max_weight < 0:
        raise SpecError(f"--max-weight is 1 or more, or 0 for no limit, not {max_weight}")
    for what, text in (("--description", description), ("--contact", contact)):
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise SpecError(f"{what} has at most {MAX_TEXT_BYTES} bytes, not {len(text.encode())}")


def _dataset(row: Any) -> RegisteredDataset:
    return _read(tuple(row.keys()), tuple(row))


@lru_cache(maxsize=256)
def _read(names: tuple[str, ...], values: tuple[Any, ...]) -> RegisteredDataset:
    """Return the dataset in a row; a task asks for its own several times."""
    row = dict(zip(names, values, strict=True))
    return RegisteredDataset(
        name=row["name"],
        path=row["path"],
        reader=row["reader"],
        tags=tuple(unpack(row["tags"])),
        options=unpack(row["options"]),
        loading=unpack(row["loading"]),
        mock=row["mock"],
        min_rows=row["min_rows"],
        num_rows=row["num_rows"],
        size_bytes=row["size_bytes"],
        columns=tuple(unpack(row["columns"])),
        version=row["version"],
        max_weight=row["max_weight"],
        description=row["description"],
        contacts=contacts_from_plain(unpack(row["contacts"])),
        added=row["added"],
        assets=assets_from_plain(unpack(row["assets"])),
    )

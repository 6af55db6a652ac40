"""The interfaces of a dataset, which a plan sees, and of a reader, which opens it from files."""

from __future__ import annotations

import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError, UnreadableData
from fedjob.data.leftovers import walked

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from fedjob.data.readers.loading_plan import LoadingPlan

CONTENT_HASH_BYTES = 256 * 1024 * 1024
"""Files of more than this many bytes together are compared by sizes and times, not by content."""

UNREADABLE = "unreadable"
"""The hash of an item that can't be read; such an item never counts as a known one."""


@dataclass(frozen=True, slots=True)
class ItemIdentity:
    """The identity of an item, by which a node recognises it later.

    Args:
        id: differs from that of every other item of the dataset.
        mtime: time of the last change of its file, seconds since 1970; None where there is no file, or it can't
            be read.
        hash: of the item's content, or of something that changes with it; empty where that is not known.
    """

    id: str
    mtime: float | None = None
    hash: str = ""


class Assets(Mapping[str, "Dataset"]):
    """The named tables and files of a dataset, each as its owner registered it: whole, before preprocessing.

    Args:
        dataset: name of the dataset, for messages.
        opened: asset -> its data; empty for a dataset that is one table, folder or file.
    """

    def __init__(self, dataset: str, opened: Mapping[str, Dataset] | None = None) -> None:
        self._dataset = dataset
        self._opened = dict(opened or {})

    def __getitem__(self, name: str) -> Dataset:
        if name not in self._opened:
            known = ", ".join(self._opened)
            there = f"it has {known}" if known else "it is one table, folder or file: use it without .assets"
            raise SpecError(f"dataset {self._dataset} has no asset {str(name)[:80]!r}; {there}")
        return self._opened[name]

    def __contains__(self, name: object) -> bool:
        return name in self._opened

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def __len__(self) -> int:
        return len(self._opened)

    def __repr__(self) -> str:
        return f"Assets({', '.join(f'{name}: {data!r}' for name, data in self._opened.items())})"


class Dataset(ABC):
    """Data at a node, as a plan sees it. Data are read when they are first used.

    Args:
        name: the name under which the owner registered the dataset.
        tags: the tags by which researchers find it.
        path: of the file or folder.
        options: the options of the reader that the owner set.

    `assets["visits"]` is one of the named tables or files of a dataset that has several; the first of them is the
    dataset itself: what `.frame()`, `.arrays()` and `.items` give, and what rows are counted of.
    """

    def __init__(
        self, path: Path, options: Mapping[str, str], *, name: str = "", tags: Sequence[str] = ()
    ) -> None:
        self.path, self.options = path, dict(options)
        self.name, self.tags = name, tuple(tags)
        self.assets = Assets(name or path.name)

    @property
    def releases_members(self) -> bool:
        """True if the owner lets an intersection tell who is here, although a minimum of rows is set."""
        return flag(self.options, MEMBERS, default=False)

    is_share: bool = False
    """True for the rows of a simulated node: they are all that it has, and not some of what was read."""

    of_files: ClassVar[bool] = False
    """True if each item is a file of its own."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """The number of examples."""

    @property
    def rows_read(self) -> int | None:
        """The number of examples in the files, before preprocessing; None as long as nothing was read."""
        return self.num_rows

    @property
    @abstractmethod
    def columns(self) -> list[dict[str, str]]:
        """Names and types of the columns, `[{"name": ..., "type": ...}]`."""

    def frame(self) -> pd.DataFrame:
        """Return the data as a table."""
        raise SpecError(f"dataset {self.name or self.path.name} is not a table: use .arrays() or .items")

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return (inputs, targets)."""
        raise SpecError(f"dataset {self.name or self.path.name} has no arrays: use .frame() or .items")

    def texts(self, column: str) -> pd.Series[Any]:
        """Return a column as texts, to compare identifiers by: exactly what the data hold; NaN where one is missing.

        Raises:
            SpecError: there is no such column.
        """
        from fedjob.data.column_types import texts_of

        frame = self.frame()
        if column not in frame.columns:
            raise SpecError(
                f"there is no column {column!r}; there are {', '.join(map(str, frame.columns))[:300]}"
            )
        return texts_of(frame[column])

    @property
    def notes(self) -> list[str]:
        """What the owner should know about how the data are read, in sentences."""
        return []

    @property
    def items(self) -> Sequence[Any]:
        """The examples, one by one."""
        return range(self.num_rows)

    def named(self, plan: LoadingPlan) -> Dataset:
        """Return these data under the names of a loading plan, see `loading_plan.py`.

        Raises:
            SpecError: data of this kind have no columns or modalities, or not those of the loading plan.
        """
        raise SpecError(
            f"dataset {self.name or self.path.name} has no columns or modalities for a loading plan to name"
        )

    def identities(self) -> list[ItemIdentity]:
        """Return the identity of each item, in their order; here made of its position and the state of all files."""
        version = version_of(self.path)
        return [ItemIdentity(str(place), None, version) for place in range(self.num_rows)]

    def take(self, places: Sequence[int]) -> Dataset:
        """Return a dataset of the items at these positions, in this order; other items are not read."""
        return _ItemSubset(self, places)

    def origin(self) -> tuple[Dataset, np.ndarray[Any, Any]]:
        """Return the data that these items were taken of, as their files hold them, and the positions there."""
        import numpy as np

        return self, np.arange(self.num_rows)

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name or self.path.name!r}, {self.num_rows} rows)"


class _ItemSubset(Dataset):
    """Some items of a dataset that is read as a whole."""

    def __init__(self, source: Dataset, places: Sequence[int]) -> None:
        super().__init__(source.path, source.options, name=source.name, tags=source.tags)
        self.assets = source.assets
        self._source = source
        self._places = list(places)

    @property
    def num_rows(self) -> int:
        return len(self._places)

    @property
    def rows_read(self) -> int | None:
        return len(self._places) if self.is_share else self._source.rows_read

    @property
    def columns(self) -> list[dict[str, str]]:
        return self._source.columns

    def frame(self) -> pd.DataFrame:
        return self._source.frame().iloc[self._places].reset_index(drop=True)

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        inputs, targets = self._source.arrays()
        return inputs[self._places], targets[self._places]

    @property
    def items(self) -> Sequence[Any]:
        items = self._source.items
        return [items[place] for place in self._places]

    def texts(self, column: str) -> pd.Series[Any]:
        return self._source.texts(column).iloc[self._places].reset_index(drop=True)

    def identities(self) -> list[ItemIdentity]:
        identities = self._source.identities()
        return [identities[place] for place in self._places]

    def take(self, places: Sequence[int]) -> Dataset:
        return _ItemSubset(self._source, [self._places[place] for place in places])

    def origin(self) -> tuple[Dataset, np.ndarray[Any, Any]]:
        root, kept = self._source.origin()
        return root, kept[self._places]


def identity_of(file: Path, folder: Path) -> ItemIdentity:
    """Return the identity of a file: its path in the folder, its time of change and its size."""
    id_ = file.relative_to(folder).as_posix() if file != folder else file.name
    try:
        found = file.stat()
    except OSError:  # the file is gone or may not be read, which is an error when it is read
        return ItemIdentity(id_, None, UNREADABLE)
    return ItemIdentity(id_, found.st_mtime, f"size:{found.st_size}")


EXTREMES, MEMBERS = "extremes", "members"

ANY_OPTIONS: Mapping[str, str] = {
    EXTREMES: "yes or no: statistics may release smallest and largest values, although min_rows is set (default no)",
    MEMBERS: "yes or no: an intersection of identifiers may tell who is here, although min_rows is set (default no)",
}
"""Options that every reader has."""


class Reader(ABC):
    """A reader: opens one kind of file or folder as a dataset."""

    name: ClassVar[str]

    stays_in_path: ClassVar[bool] = False
    """True if it opens files at or below its path only, whatever stands in them: somebody else's data are opened by
    such a reader only."""

    options: ClassVar[Mapping[str, str]] = {}
    """Option -> one line of help."""

    opens: ClassVar[type[Dataset]]
    """The class of the datasets that it opens."""

    def open(
        self,
        path: str | Path,
        options: Mapping[str, str] | None = None,
        *,
        name: str = "",
        tags: Sequence[str] = (),
    ) -> Dataset:
        """Return the dataset at a path.

        Raises:
            SpecError: there is nothing at the path that this reader reads, or an option is wrong.
        """
        checked, given = self.check(path, options)
        return self.opens(self.accept(checked), given, name=name, tags=tags)

    def accept(self, path: Path) -> Path:
        """Return an existing path, if it is of the kind that this reader reads: a file, a folder, or either.

        Raises:
            SpecError: the path is of another kind.
        """
        return path

    def check(self, path: str | Path, options: Mapping[str, str] | None) -> tuple[Path, dict[str, str]]:
        """Return path and options, if the path can be read and all options are known."""
        given = {str(key): str(setting) for key, setting in (options or {}).items()}
        for key in given:
            if key not in self.options and key not in ANY_OPTIONS:
                near = difflib.get_close_matches(key, [*self.options, *ANY_OPTIONS], n=1, cutoff=0.0)
                raise SpecError(f"reader {self.name} has no option {key!r}; the nearest is {near[0]!r}")
        for name in ANY_OPTIONS:
            flag(given, name, default=False)
        return check_path(Path(path)), given


def check_path(path: Path) -> Path:
    """Return a path that exists and can be read.

    Raises:
        UnreadableData: it can't be read; the message has the reason.
    """
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            with path.open("rb"):
                pass
    except OSError as error:
        raise UnreadableData(f"{path} can't be read: {error.strerror}") from error
    return path


def check_file(path: Path, reader: str) -> Path:
    """Return a path that is a file.

    Raises:
        SpecError: it is a folder.
    """
    if not path.is_file():
        raise SpecError(f"reader {reader} reads a file, but {path} is a folder")
    return path


def check_folder(path: Path, reader: str, what: str) -> Path:
    """Return a path that is a folder.

    Args:
        what: the content of the folder, in words that follow "a folder" in the message.

    Raises:
        SpecError: it is a file.
    """
    if not path.is_dir():
        raise SpecError(f"reader {reader} reads a folder {what}, but {path} is a file")
    return path


def files_of(path: Path) -> Iterator[Path]:
    """Yield the files of a dataset in a stable order, without what systems and programs left among them."""
    if path.is_file():
        yield path
    else:
        yield from (file for file in walked(path) if file.is_file())


def version_of(path: Path) -> str:
    """Return a text that changes when the data change.

    The text is `content:` and a hash of names and bytes, or for more than 256 MiB
    `stat:` and a hash of names, sizes and times of change.
    """
    files = list(files_of(path))
    sizes = [file.stat().st_size for file in files]
    by_content = sum(sizes) <= CONTENT_HASH_BYTES
    total = hashlib.sha256()
    for file, size in zip(files, sizes, strict=True):
        relative = file.relative_to(path).as_posix() if path.is_dir() else ""
        total.update(f"{relative}\0{size}\0".encode())
        if by_content:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            total.update(str(file.stat().st_mtime_ns).encode())
    return f"{'content' if by_content else 'stat'}:{total.hexdigest()}"


def flag(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Return the value of an option that is yes or no.

    Raises:
        SpecError: the option has another value.
    """
    given = options.get(name)
    if given is None:
        return default
    if given.lower() in ("yes", "true", "1", "on"):
        return True
    if given.lower() in ("no", "false", "0", "off"):
        return False
    raise SpecError(f"option {name} is yes or no, not {given!r}")


def words(options: Mapping[str, str], name: str) -> list[str]:
    """Return the entries of an option that is a comma-separated list."""
    return [word.strip() for word in options.get(name, "").split(",") if word.strip()]

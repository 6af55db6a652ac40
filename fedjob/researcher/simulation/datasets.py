"""The data of a simulation: taken as they were given, written once where workers map them, and divided among the nodes.

In a job's folder, `simulated/` holds `rows.npy`, the row numbers of all nodes one after another, and what was given as
objects of this process: `data/inputs.npy` and `data/targets.npy`, or `data.parquet`.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from fedjob.common.checks import shown
from fedjob.common.errors import FedjobError, SpecError
from fedjob.common.files import link_or_copy, make_folder, no_space_is_an_error, private, replace_durably
from fedjob.common.seeds import seed_for
from fedjob.common.types import check_party
from fedjob.data.loader import describe, open_dataset
from fedjob.data.node_names import NumberedNames, as_node_name
from fedjob.data.readers import fitting_reader
from fedjob.data.readers.base import Dataset
from fedjob.data.readers.npy import INPUTS, TARGETS
from fedjob.data.readers.table import TableDataset
from fedjob.data.shares import RowRanges, SharedDatasets
from fedjob.researcher.simulation.population import FUNCTION, MAX_NODES, Simulation, SplitFunction, is_split
from fedjob.researcher.simulation.splits import ByColumn, Division, Rows, checked_rows, joined

if TYPE_CHECKING:
    import pandas as pd

SIMULATED = "simulated"
"""The key that stands for data that were given as objects, with their kind."""

ROWS = "rows.npy"
_DENSE = "torch.strided"
"""The layout of a tensor that an array can have."""

_TAKES = (
    "(inputs, targets) as arrays or tensors, a torch Dataset of such pairs, a DataFrame, a path or {'path': ...}, or a "
    "map from nodes to these"
)
"""What `data=` is in a simulation, for errors."""

_OF_SEARCHES = {"tags", "name"}
"""Keys of `data=` that look for datasets at real nodes."""

_KEYS = {"path", "reader", "options", "loading", "name", "tags"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenData:
    """Data that were given as objects: arrays, a torch Dataset or a table, of all nodes together.

    Args:
        kind: `arrays` or `table`.
        parts: (inputs, targets), a torch Dataset, or a DataFrame; one for each node where there is a map.
        nodes: the nodes of these, empty where one dataset is to be divided.
    """

    kind: str
    parts: tuple[Any, ...] = field(repr=False)
    nodes: tuple[str, ...] = ()

    @property
    def sizes(self) -> list[int]:
        """Rows of each part."""
        return [_length(part) for part in self.parts]

    @property
    def _names(self) -> list[str]:
        """What each part is called in an error."""
        return [f"data[{shown(node)}]" for node in self.nodes] or ["data"]

    @property
    def plain(self) -> dict[str, Any]:
        """What stands for them in a job's record, the same for a script that is run again."""
        return {**self.stand_in, "rows": sum(self.sizes), "sha256": _digest(self.parts)}

    @property
    def stand_in(self) -> dict[str, Any]:
        """The kind, and the rows of each node where there is a map: what the written data are opened by."""
        nodes = {"nodes": dict(zip(self.nodes, self.sizes, strict=True))} if self.nodes else {}
        return {SIMULATED: self.kind, **nodes}

    def only(self, nodes: Collection[str]) -> GivenData:
        """Return those of a map that are of some nodes."""
        kept = [(node, part) for node, part in zip(self.nodes, self.parts, strict=True) if node in nodes]
        return replace(self, nodes=tuple(node for node, _ in kept), parts=tuple(part for _, part in kept))

    def write(self, folder: Path) -> None:
        """Write them into a new folder, durably.

        Raises:
            SpecError: the parts do not have the same shape, or the same columns.
        """
        if self.kind == "table":
            make_folder(folder)
            _write_table(self.parts, self._names, folder / "data.parquet")
        else:
            make_folder(folder / "data")
            _write_arrays(self.parts, self._names, folder / "data")


def given_data(simulation: Simulation, data: Any) -> Any:
    """Return what was given as `data`, with objects of this process as `GivenData`.

    Raises:
        SpecError: it is nothing that can be simulated on; says what is.
    """
    if isinstance(data, GivenData) or (isinstance(data, Mapping) and SIMULATED in data):
        return data
    if isinstance(data, Mapping) and not data.keys() & {"path", "assets"}:
        return _given_map(simulation, data)
    if simulation.split is None:
        raise SpecError(
            "simulate() without a number of nodes takes data={'node': dataset, ...}, a map; found "
            f"{shown(type(data).__name__)}: for one dataset say how many nodes, simulate(10, split=IID())"
        )
    kind = _kind(data)
    return data if kind == "file" else GivenData(kind=kind, parts=(data,))


def _given_map(simulation: Simulation, data: Mapping[Any, Any]) -> Any:
    if data and data.keys() <= _OF_SEARCHES:
        raise SpecError(
            f"data={shown(dict(data))} looks for datasets at real nodes; a simulation takes the data themselves, {_TAKES}"
        )
    for name, own in data.items():
        if _is_array(own):
            raise SpecError(
                f"data[{shown(name)}] is one {type(own).__name__} and no dataset; expected a dataset for each node, or "
                "data=(inputs, targets) for one that is divided"
            )
    if simulation.split is not None or simulation.num_nodes is not None:
        raise SpecError(
            "data is a map from nodes to datasets, which are divided already: write nodes=simulate(), without a number "
            "of nodes and a split"
        )
    if not data:
        raise SpecError("data is an empty map; expected a dataset for each node: {'node': dataset, ...}")
    if len(data) > MAX_NODES:
        raise SpecError(f"a simulation has {MAX_NODES} nodes at most; data has {len(data)}")
    nodes = sorted(check_party(node) for node in data)
    kinds = {_kind(data[node], f"data[{shown(node)}]") for node in nodes}
    if len(kinds) > 1:
        raise SpecError(f"data has {' and '.join(sorted(kinds))} in one map; expected one kind for all nodes")
    kind = kinds.pop()
    if kind == "file":
        return dict(data)
    return GivenData(kind=kind, parts=tuple(data[node] for node in nodes), nodes=tuple(nodes))


def _kind(data: Any, what: str = "data") -> str:
    """Return what a dataset is: `arrays`, `table`, or `file`.

    Args:
        what: the dataset, for errors.

    Raises:
        SpecError: it is none, or has no examples.
    """
    if isinstance(data, (str, Path)) or (isinstance(data, Mapping) and data.keys() & {"path", "assets"}):
        return "file"
    if type(data).__module__.partition(".")[0] == "pandas":
        if not hasattr(data, "to_parquet"):
            raise SpecError(
                f"{what} is a pandas {type(data).__name__}; expected a DataFrame, such as data.to_frame()"
            )
        if not len(data):
            raise SpecError(f"{what} is a table without rows; expected one or more")
        return "table"
    if isinstance(data, (tuple, list)) and len(data) == 2 and _are_arrays(data):
        if sparse := [part for part in data if str(getattr(part, "layout", _DENSE)) != _DENSE]:
            raise SpecError(
                f"{what} has a tensor of layout {sparse[0].layout}; expected a dense one, such as .to_dense()"
            )
        if sparse := [part for part in data if type(part).__module__.startswith("scipy.sparse")]:
            raise SpecError(
                f"{what} has a {type(sparse[0]).__name__}; expected a dense array, such as .toarray()"
            )
        lengths = [int(part.shape[0]) if part.shape else 0 for part in data]
        if lengths[0] != lengths[1] or not lengths[0]:
            raise SpecError(
                f"{what} has {lengths[0]} inputs and {lengths[1]} targets; expected as many, one or more"
            )
        return "arrays"
    if _only_iterates(data):
        raise SpecError(
            f"{what} is a {type(data).__name__}, which only iterates; a simulation divides examples by their numbers: give "
            "arrays, or a Dataset with __len__ and __getitem__"
        )
    if _is_array(data):
        raise SpecError(
            f"{what} is one {type(data).__name__} of shape {list(data.shape)}, without targets; expected (inputs, targets)"
        )
    if (
        not isinstance(data, (tuple, list, set, bytes))
        and hasattr(data, "__len__")
        and hasattr(data, "__getitem__")
    ):
        if not _length(data):
            raise SpecError(f"{what} is a {type(data).__name__} of no examples; expected one or more")
        return "arrays"
    found = _words(data) if what == "data" else f"{_words(data)} as {what}"
    raise SpecError(f"a simulation takes data={_TAKES}; found {found}")


def _is_array(data: Any) -> bool:
    """Tell an array or a tensor from a Dataset of somebody's own, which may have a dtype and a shape, too."""
    return type(data).__module__.partition(".")[0] in ("numpy", "torch") and hasattr(data, "dtype")


def _are_arrays(parts: Iterable[Any]) -> bool:
    return all(hasattr(part, "shape") for part in parts)


def _only_iterates(data: Any) -> bool:
    """Tell an iterator, a DataLoader and an IterableDataset, which inherits a `__getitem__` that only raises."""
    if not hasattr(data, "__iter__"):
        return False
    own = getattr(type(data), "__getitem__", None)
    inherited = ("torch.utils.data.dataset", "Dataset.__getitem__")
    return own is None or (getattr(own, "__module__", ""), getattr(own, "__qualname__", "")) == inherited


def _words(data: Any) -> str:
    """Return what was given as data, for an error."""
    if not isinstance(data, (tuple, list)):
        return shown(data) if data is None or isinstance(data, (int, float)) else f"a {type(data).__name__}"
    kinds = ", ".join(type(part).__name__ for part in data[:3]) + (", ..." if len(data) > 3 else "")
    hint = ""
    if data and all(
        isinstance(part, (tuple, list)) and len(part) == 2 and _are_arrays(part) for part in data
    ):
        hint = ": give each node its own, data={'node': (inputs, targets), ...}, with nodes=simulate()"
    elif len(data) == 2 and all(isinstance(part, (tuple, list)) for part in data):
        hint = ": make an array of each, numpy.array(...)"
    return f"a {type(data).__name__} of {len(data)} ({kinds}){hint}"


def _length(part: Any) -> int:
    if isinstance(part, (tuple, list)):
        return int(part[0].shape[0])
    try:
        return len(part)
    except Exception as error:  # of somebody's own class
        raise SpecError(
            f"data is a {type(part).__name__} whose length can't be had: {type(error).__name__}: {error}"
        ) from error


def _digest(parts: Iterable[Any]) -> str:
    """Return a hash of arrays and tables; of a torch Dataset, of what it is and how long."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, (tuple, list)):
            for array in map(_as_array, part):
                total.update(f"{array.dtype}{array.shape}".encode())
                total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        elif hasattr(part, "to_parquet"):
            from pandas.util import hash_pandas_object

            total.update(f"{list(part.columns)}{list(map(str, part.dtypes))}".encode())
            total.update(hash_pandas_object(part.astype(str), index=False).to_numpy().tobytes())
        else:
            total.update(f"{type(part).__qualname__}{_length(part)}".encode())
    return total.hexdigest()


def _as_array(array: Any) -> Rows:
    """Return a numpy array or a tensor as an array that can be mapped.

    Raises:
        SpecError: it holds objects, or values that are masked; or it is a tensor of a kind that no array is.
    """
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise SpecError(
            "data has an array with masked values, which a node could not tell from others: fill them, "
            "array.filled(...), or leave these rows out"
        )
    try:
        found = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = getattr(array, "dtype", type(array).__name__)
        raise SpecError(
            f"data has {kind}, of which no array can be made: give numbers of a dtype that numpy has, such as .float(): "
            f"{str(error)[:200]}"
        ) from error
    if found.dtype.hasobject:
        raise SpecError(
            f"data has an array of {found.dtype}; expected numbers: encode other values, or give a DataFrame"
        )
    # torch takes numbers in the machine's own order of bytes alone
    return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))


def _pair(examples: Any, place: int) -> tuple[Rows, Rows]:
    """Return one example of a torch Dataset as (input, target).

    Raises:
        SpecError: it is none, or can't be read.
    """
    try:
        example = examples[place]
    except Exception as error:  # of somebody's own class
        raise SpecError(
            f"example {place} of the Dataset, which says that it has {_length(examples)}, can't be read: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(example, (tuple, list)) or len(example) != 2:
        raise SpecError(
            f"example {place} of the Dataset is {_words(example)}; expected (input, target): give a simulation arrays, "
            "or a path that the plan reads"
        )
    try:
        return _as_array(example[0]), _as_array(example[1])
    except SpecError as error:
        raise SpecError(f"example {place} of the Dataset: {error}") from error


def _write_arrays(parts: Sequence[Any], names: Sequence[str], folder: Path) -> None:
    """Write inputs and targets of all parts as two files, part by part, so that they are in memory but once."""
    first, sizes = parts[0], [_length(part) for part in parts]
    pair = (first[0][:1], first[1][:1]) if isinstance(first, (tuple, list)) else None
    heads = [part[0] for part in map(_as_array, pair)] if pair is not None else list(_pair(first, 0))
    files = [
        _new_array(folder / name, head, sum(sizes))
        for name, head in zip((INPUTS, TARGETS), heads, strict=True)
    ]
    start = 0
    for part, name, size in zip(parts, names, sizes, strict=True):
        if isinstance(part, (tuple, list)):
            for file, array in zip(files, map(_as_array, part), strict=True):
                _check_like(file, array[0], f"row 0 of {name}")
                file[start : start + size] = array
        else:
            for place in range(size):
                for file, array in zip(files, _pair(part, place), strict=True):
                    _check_like(file, array, f"row {place} of {name}")
                    file[start + place] = array
        start += size
    for file in files:
        file.flush()


def _new_array(path: Path, head: Rows, num_rows: int) -> np.memmap[Any, Any]:
    head = np.asarray(head)
    with no_space_is_an_error(path):
        with open(path, "wb", opener=private):
            pass
        array = np.lib.format.open_memmap(path, mode="w+", dtype=head.dtype, shape=(num_rows, *head.shape))
        with open(path, "r+b") as file:
            # the place first: a disk that gets full ends the process that writes to what is mapped from it
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def _check_like(file: np.memmap[Any, Any], array: Any, what: str) -> None:
    array = np.asarray(array)
    if array.shape != file.shape[1:] or array.dtype != file.dtype:
        raise SpecError(
            f"{what} is {array.dtype} of shape {list(array.shape)}, and the first {file.dtype} of shape "
            f"{list(file.shape[1:])}; a simulation takes examples of one shape"
        )


def _write_table(parts: Sequence[pd.DataFrame], names: Sequence[str], path: Path) -> None:
    import pandas as pd

    for part, name in zip(parts, names, strict=True):
        if list(part.columns) != list(parts[0].columns):
            raise SpecError(
                f"data has tables with columns {', '.join(map(str, parts[0].columns))[:200]} and, as {name}, with "
                f"{', '.join(map(str, part.columns))[:200]}; expected the same for all nodes"
            )
    table = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    try:
        with _renamed(path) as file:
            table.to_parquet(file, index=False)
    except (OSError, FedjobError):
        raise
    except Exception as error:  # pyarrow has errors of many kinds for values that parquet has no type for
        raise SpecError(f"data is a table that can't be written: {error}") from error


@contextmanager
def _renamed(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that has its name, durably, when all is written, and is gone when that fails.

    Raises:
        NoSpace: the disk is full.
    """
    temporary = path.with_suffix(".new")
    try:
        with no_space_is_an_error(path):
            with open(temporary, "wb", opener=private) as file:
                yield file
            replace_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link_data(source: Path, target: Path) -> None:
    """Take over the data that `GivenData.write` wrote into another job's folder.

    Raises:
        SpecError: they are not there any more.
    """
    if not source.exists():
        raise SpecError(f"the data of {source.parent.name} are not there any more: give data= anew")
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.name != ROWS:
            make_folder((target / path.relative_to(source)).parent)
            link_or_copy(path, target / path.relative_to(source))


# -- the nodes' shares -----------------------------------------------------------------


class _DividedData:
    """An opened dataset, as far as a split looks at it."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.num_rows = int(dataset.num_rows)

    def labels(self, column: str | None) -> Rows:
        """Return one value per row, texts where they are no numbers.

        Raises:
            SpecError: there is no such column, or there are no targets.
        """
        dataset = self._dataset
        if isinstance(dataset, TableDataset):
            frame = dataset.frame()
            names = [str(name) for name in frame.columns]
            column = dataset.options.get("target", names[-1]) if column is None else column
            if column not in names:
                raise SpecError(f"the data have no column {column!r}; they have {', '.join(names)[:300]}")
            found = frame.iloc[:, names.index(column)]
            _check_filled(found.isna().to_numpy(), f"column {column!r}")
            values: Rows = (
                found.to_numpy() if found.dtype.kind in "iufb" else found.astype(str).to_numpy(dtype=str)
            )
            return values
        if column is not None:
            raise SpecError(
                f"the data have no column {column!r}: they are no table; leave the column out to go by targets"
            )
        try:
            targets = np.asarray(dataset.arrays()[1])
        except FedjobError as error:
            raise SpecError(f"the data have no targets to divide them by: {error}") from error
        if targets.ndim > 1 and targets.shape[1:] != (1,):
            raise SpecError(f"the targets have shape {list(targets.shape)}; expected one label for each row")
        labels: Rows = targets.reshape(-1)
        if labels.dtype.kind in "fcmM":
            _check_filled(labels != labels, "the targets")  # what is not a number isn't itself
        return labels


def _check_filled(empty: Rows, what: str) -> None:
    """Refuse labels of which some are missing.

    Raises:
        SpecError: it says how many, and where the first is.
    """
    if empty.any():
        raise SpecError(
            f"{what} to divide the rows by: {int(empty.sum())} of {len(empty)} are empty, the first that of row "
            f"{int(empty.argmax())}: fill them, or leave these rows out"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShares:
    """The nodes of a simulation with what their rows are opened by.

    Args:
        datasets: node -> `{name, path, reader, ..., share}`, made when it is asked for.
        rows_hash: sha256 of the row numbers of all nodes.
    """

    datasets: SharedDatasets
    rows_hash: str


def divide(simulation: Simulation, data: Any, folder: Path, seed: int) -> NodeShares:
    """Divide one dataset among the nodes, and keep the row numbers in a folder.

    Args:
        data: a path, `{"path": ...}`, or what stands for data that `GivenData.write` wrote into the folder.
        seed: of the job.

    Raises:
        SpecError: that can't be done: a node without rows, rows that there are not, an unknown column.
    """
    data = data.stand_in if isinstance(data, GivenData) else data
    info = _info_of(data, folder)
    dataset = open_dataset(info)
    source = _DividedData(dataset)
    if isinstance(data, Mapping) and data.get("nodes"):
        names: Sequence[str] = tuple(sorted(data["nodes"]))
        ends = np.cumsum([int(data["nodes"][name]) for name in names])
        divided = Division(np.arange(source.num_rows), ends)
    else:
        names, divided = _divided(simulation, source, dataset, seed)
    every = np.ascontiguousarray(divided.rows)
    make_folder(folder)
    index = folder / ROWS
    with _renamed(index) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(every))
        file.write(every.data)  # by numpy it would be an error that doesn't say that the disk is full
    digest = hashlib.sha256(divided.counts.astype(np.int64).data)
    digest.update(every.data)
    stops = array("q", divided.stops.astype(np.int64).tobytes())
    datasets = SharedDatasets(info=info, index=str(index), rows=RowRanges(names=names, stops=stops))
    return NodeShares(datasets=datasets, rows_hash=digest.hexdigest())


def _divided(
    simulation: Simulation, source: _DividedData, dataset: Dataset, seed: int
) -> tuple[Sequence[str], Division]:
    """Return the nodes' names and rows."""
    split, wanted = simulation.split, simulation.num_nodes
    rng = np.random.default_rng(seed_for(seed, 0, "", "split"))
    if is_split(split):
        num_nodes = split.num_nodes(source, wanted)
        what = f"split={split!r}"[:200]
    else:
        if wanted is None:
            raise SpecError("a function as split needs a number of nodes: simulate(10, split=...)")
        num_nodes, what = wanted, f"split={getattr(split, '__name__', FUNCTION)}"
    if num_nodes > MAX_NODES:
        raise SpecError(f"a simulation has {MAX_NODES} nodes at most; {what} makes {num_nodes}")
    if num_nodes > source.num_rows:
        raise SpecError(f"simulate({num_nodes}) has more nodes than there are rows, {source.num_rows}")
    if is_split(split):
        found: Any = split.divide(source, num_nodes, rng)
    else:
        found = _given_by(cast(SplitFunction, split), what, dataset, num_nodes, rng)
    return _named(split, source, checked_rows(found, num_nodes, source.num_rows, what))


def _given_by(
    split: SplitFunction, what: str, dataset: Dataset, num_nodes: int, rng: np.random.Generator
) -> Any:
    """Return what a function that divides the rows gives.

    Raises:
        SpecError: it raises.
    """
    try:
        found = split(dataset, num_nodes, rng)
        return list(found) if isinstance(found, Iterator) else found
    except Exception as error:  # of somebody's own function
        raise SpecError(
            f"{what} raised {type(error).__name__}: {error}; expected a function of the dataset, the number of nodes "
            "and a numpy.random.Generator that returns a list of row numbers for each node"
        ) from error


def _named(split: Any, source: _DividedData, rows: Division) -> tuple[Sequence[str], Division]:
    """Return the nodes' names, in order, and their rows: a column's texts name them where no two are alike, else numbers."""
    labels = source.labels(split.column) if isinstance(split, ByColumn) else None
    if labels is not None and labels.dtype.kind not in "iuf":
        names = [as_node_name(str(value)) for value in np.unique(labels)]
        if len(set(names)) == len(names) and _are_parties(names) and not all(map(str.isdigit, names)):
            order = sorted(range(len(names)), key=names.__getitem__)
            return tuple(names[place] for place in order), joined([rows[place] for place in order])
    return NumberedNames(len(rows)), rows


def _are_parties(names: Sequence[str]) -> bool:
    try:
        return all(check_party(name) for name in names)
    except SpecError:
        return False


def _info_of(data: Any, folder: Path) -> dict[str, Any]:
    """Return what the whole dataset is opened by.

    Raises:
        SpecError: it is no path that can be read.
    """
    if isinstance(data, Mapping) and SIMULATED in data:
        is_table = data[SIMULATED] == "table"
        data = {
            "path": folder / ("data.parquet" if is_table else "data"),
            "reader": "parquet" if is_table else "npy",
            "name": "simulated",
        }
    if isinstance(data, (str, Path)):
        data = {"path": data}
    if not isinstance(data, Mapping) or not isinstance(data.get("path"), (str, Path)):
        raise SpecError(
            f"a simulation divides one table, folder or file, data={{'path': ...}}; found {shown(data)}"
        )
    if unknown := sorted(set(data) - _KEYS):
        raise SpecError(f"data: unknown keys {unknown}; a simulation takes {', '.join(sorted(_KEYS))}")
    path = Path(data["path"]).expanduser().resolve()
    options = {str(key): value for key, value in dict(data.get("options") or {}).items()}
    loading = dict(data.get("loading") or {})
    reader = data.get("reader") or fitting_reader(path)
    about = describe(path, reader, options, loading)
    return {
        "name": str(data.get("name") or path.stem),
        "path": str(path),
        "reader": reader,
        "tags": list(data.get("tags") or ()),
        "options": options,
        "loading": loading,
        "version": about["version"],
    }

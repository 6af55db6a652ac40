"""The number of examples in a batch of any form, or an error that names what can't be counted.

A batch is either fields with the same first axis (what torch's `default_collate` gives: a tuple, a mapping or a
dataclass of tensors and of lists of texts), or a list of examples (what detection models are given). Both readings
are tried on every part; where they leave more than one number, how many examples were put together decides, and
where nobody knows that, the batch is refused. A wrong number would be a wrong weight of a node, without a word.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from fedjob.common.errors import PlanError

MAX_DEPTH = 8
"""Containers in a batch may be nested this deeply."""

_NUMBERS = (bool, int, float, complex)
_COUNTERS = ("num_graphs", "batch_size")
"""Attributes by which libraries of graphs and of structured batches say how many examples one of theirs holds."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """What one part of a batch says.

    Args:
        sizes: the numbers of examples that it may hold.
        axes: of an array; 1 for a list of examples that are no arrays.
        silent: it says nothing, such as None.
        single: it is a value of a single example, such as a number or a text.
        unknown: names the type of a part that can't be looked into; empty for none.
        arrays: how many arrays there are in it.
        second: the lengths of its arrays' second axes, which count the examples of sequences with time first; 0
            of an array that has none.
    """

    sizes: frozenset[int] = frozenset()
    axes: int = 0
    silent: bool = False
    single: bool = False
    unknown: str = ""
    arrays: int = 0
    second: frozenset[int] = frozenset()


def count_examples(batch: Any, collated: int | None = None) -> int:
    """Return how many examples a batch holds.

    Args:
        batch: tensors, arrays, tables, texts, packed sequences, sparse tensors, graphs that count themselves
            (`num_graphs`, `batch_size`), and mappings, tuples, lists and dataclasses of these.
        collated: how many examples were put together into it; None where that is not known, as of a stream
            that makes its own batches or gives single examples.

    Raises:
        PlanError: it can't be told; the message says why, and what to do.
    """
    found = _read(batch, MAX_DEPTH)
    counted = _count_streamed(batch, found) if collated is None else _count_collated(batch, found, collated)
    if counted is None:
        why = f"it has a part of type {found.unknown}" if found.unknown else _doubt(found)
        raise PlanError(
            f"how many examples are in a batch can't be told: {_shown(batch)}; {why}. Let a DataLoader make the "
            "batches, DataLoader(dataset, batch_size=...), or write num_examples(self, batch) in the plan"
        )
    return counted


def _count_collated(batch: Any, found: _Reading, collated: int) -> int | None:
    """Return what a batch of a known number of examples holds; its collate function may drop or add some."""
    if collated in found.sizes or not found.sizes or found.second == {collated}:
        return collated
    sizes = found.sizes
    if type(batch) is tuple and len(sizes) > 1:
        sizes = _fields(batch, MAX_DEPTH).sizes or sizes
    return next(iter(sizes)) if len(sizes) == 1 else None


def _count_streamed(batch: Any, found: _Reading) -> int | None:
    """Return what a batch holds, or 1 for a single example; None where it could be either."""
    if found.unknown:
        return None
    if type(batch) is tuple:
        found = _fields(batch, MAX_DEPTH)
    if found.single:
        # several arrays that agree and a number: a batch with a setting beside it, or one example with its label
        doubtful = found.arrays > 1 and found.axes > 1 and found.sizes
        return None if doubtful else 1
    if len(found.sizes) != 1 or found.axes == 1:
        return None
    return next(iter(found.sizes))


def _doubt(found: _Reading) -> str:
    if found.single:
        return "there are numbers beside arrays of rows"
    if not found.sizes:
        return "its parts differ in their first axis"
    if len(found.sizes) > 1:
        return f"it may be {' or '.join(map(str, sorted(found.sizes)))}"
    return f"arrays of one axis may be one example or {next(iter(found.sizes))}"


def _read(part: Any, depth: int) -> _Reading:
    if depth == 0:
        return _Reading(unknown="a container nested too deeply")
    if part is None:
        return _Reading(silent=True)
    if isinstance(part, (str, bytes, *_NUMBERS)):
        return _Reading(single=True)
    if (counted := _counted_by_itself(part)) is not None:
        return _Reading(frozenset({counted}), axes=2, arrays=1, second=frozenset({0}))
    if (shape := _shape_of(part)) is not None:
        return _read_array(shape)
    if isinstance(part, Mapping) or _is_record(part):
        return _fields(part, depth)
    if isinstance(part, (list, tuple)):
        return _read_list(part, depth)
    if type(part).__module__.partition(".")[0] in ("PIL", "datetime", "decimal", "pathlib", "uuid"):
        return _Reading(single=True)
    return _Reading(unknown=_type_name(part))


def _read_array(shape: tuple[int, ...]) -> _Reading:
    if not shape:
        return _Reading(single=True)
    second = shape[1] if len(shape) > 1 else 0
    return _Reading(frozenset({shape[0]}), axes=len(shape), arrays=1, second=frozenset({second}))


def _read_list(part: list[Any] | tuple[Any, ...], depth: int) -> _Reading:
    """Read a list as fields of one batch and as examples."""
    size = frozenset({len(part)})
    if not part:
        return _Reading(size, axes=2, arrays=1, second=frozenset({0}))
    types = set(map(type, part))
    if all(issubclass(kind, _NUMBERS) for kind in types):  # a number for each example, or the features of one
        return _Reading(size, axes=1, arrays=1, second=frozenset({0}))
    readings = [_read(item, depth - 1) for item in part]
    fields = _joined(readings)
    if len({_kind(item, reading) for item, reading in zip(part, readings, strict=True)}) > 1:
        return fields
    if fields.single:  # what holds a text, a label or an image of its own is one example
        return _Reading(size, axes=2, arrays=1, second=frozenset({0}))
    return dataclasses.replace(
        fields, sizes=fields.sizes | size, axes=max(2, fields.axes), unknown="", arrays=max(1, fields.arrays)
    )


def _fields(part: Any, depth: int) -> _Reading:
    """Read a container as fields of one batch."""
    return _joined([_read(item, depth - 1) for item in _parts_of(part)])


def _joined(readings: list[_Reading]) -> _Reading:
    """Return what fields say together: the numbers that each of them may hold."""
    saying = [reading for reading in readings if not reading.silent]
    counting = [reading for reading in saying if reading.sizes]
    empty = [reading for reading in saying if not reading.sizes and not reading.single and reading.arrays]
    sizes = frozenset.intersection(*(reading.sizes for reading in counting)) if counting else frozenset()
    return _Reading(
        frozenset() if empty else sizes,
        axes=max((reading.axes for reading in saying), default=0),
        silent=not saying,
        single=any(reading.single for reading in saying),
        unknown=next((reading.unknown for reading in saying if reading.unknown), ""),
        arrays=sum(reading.arrays for reading in saying),
        second=frozenset().union(*(reading.second for reading in saying)),
    )


def _parts_of(part: Any) -> Iterable[Any]:
    if isinstance(part, Mapping):
        return list(part.values())
    if dataclasses.is_dataclass(part):
        return [getattr(part, field.name) for field in dataclasses.fields(part)]
    return list(part)


def _is_record(part: Any) -> bool:
    """Return whether a part has named fields: a dataclass or a named tuple."""
    if isinstance(part, tuple):
        return hasattr(part, "_fields")
    return dataclasses.is_dataclass(part) and not isinstance(part, type)


def _kind(item: Any, reading: _Reading) -> tuple[Any, ...]:
    """Return what examples in one list have in common."""
    if isinstance(item, Mapping):
        return (type(item),)
    if isinstance(item, (list, tuple)):
        return (type(item), len(item) if isinstance(item, tuple) else 0)
    return (type(item), reading.axes, str(getattr(item, "dtype", "")))


def _counted_by_itself(part: Any) -> int | None:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(part, torch.nn.utils.rnn.PackedSequence):
        return int(part.batch_sizes[0])
    if isinstance(part, (Mapping, list, tuple)) or _shape_of(part) is not None:
        return None
    for name in _COUNTERS:
        given = getattr(part, name, None)
        if isinstance(given, tuple) and given:  # a torch.Size
            given = given[0]
        if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
            return given
    return None


def _shape_of(part: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor, an array, a column, a table or a sparse matrix; None for anything else."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(part, torch.Tensor):
        return (int(part.size(0)), *([0] * (part.dim() - 1))) if part.is_nested else tuple(part.shape)
    if type(part).__module__.partition(".")[0] == "pyarrow":
        rows = getattr(part, "num_rows", None)
        return None if rows is None else (int(rows), int(part.num_columns))
    shape = getattr(part, "shape", None)
    if isinstance(shape, tuple) and all(isinstance(axis, int) for axis in shape):
        return shape
    return None


def _shown(batch: Any, depth: int = 3) -> str:
    """Describe a batch in a few words."""
    if (shape := _shape_of(batch)) is not None:
        return f"{type(batch).__name__} {list(shape)}"
    if not depth or not isinstance(batch, (Mapping, list, tuple)) or not batch:
        return _type_name(batch)
    if isinstance(batch, Mapping):
        items = [f"{key!r:.40}: {_shown(item, depth - 1)}" for key, item in list(batch.items())[:6]]
        return f"{type(batch).__name__}({', '.join(items)}{', ...' if len(batch) > 6 else ''})"
    items = [_shown(item, depth - 1) for item in batch[:6]]
    return f"{type(batch).__name__}({', '.join(items)}{', ...' if len(batch) > 6 else ''})"


def _type_name(part: Any) -> str:
    kind = type(part)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"

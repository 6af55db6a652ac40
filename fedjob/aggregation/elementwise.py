"""The walk over values of equal structure, number by number, that aggregators share.

A value is named tensors, plain data, or maps and lists of them. Tensors are
taken a chunk at a time, so that aggregating memory-mapped files needs the
memory of one value, however many nodes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import torch

CHUNK = 1 << 15
"""Numbers of each contribution at a time: those of some nodes lie in a processor's cache, and torch does not
divide so few over its threads, which on a busy machine wait for each other at every operation."""

Rule = Callable[["torch.Tensor"], "torch.Tensor"]
"""A function from a tensor of shape (contributions, places), any dtype, to one of (places,), same dtype or float64."""


def aggregate_leaves(values: Sequence[Any], rule: Callable[[Sequence[Any]], Any]) -> Any:
    """Apply `rule` to the numbers, arrays or tensors that stand at the same place in every value.

    Args:
        values: of equal structure; None means there is no value.

    Raises:
        SpecError: the structures differ.
    """
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Mapping):
        return {name: aggregate_leaves(column, rule) for name, column in _columns(values)}
    if isinstance(first, (list, tuple)):
        return [aggregate_leaves(column, rule) for _, column in _columns(values)]
    return rule(values)


def each_leaf(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the leaves that stand at the same place in every value, place by place, in the order of their names.

    The order of names makes sums over all places come to the same bits, however a map orders its entries.
    """
    first = values[0]
    if isinstance(first, (Mapping, list, tuple)):
        columns = list(_columns(values))
        if isinstance(first, Mapping):
            columns.sort(key=lambda column: str(column[0]))
        for _, column in columns:
            yield from each_leaf(column)
    elif first is not None:
        yield values


def aggregate_places(values: Sequence[Any], rule: Rule) -> Any:
    """Apply `rule` to every number on its own; tensors keep their dtype, whole numbers are rounded."""
    return aggregate_leaves(values, lambda leaves: _aggregate_tensors(leaves, rule))


def tensors_of(leaves: Sequence[Any]) -> list[torch.Tensor]:
    """Return numbers or arrays as tensors of equal shape.

    Raises:
        SpecError: they are something else, or their shapes or dtypes differ.
    """
    import torch

    if all(isinstance(leaf, (int, float)) for leaf in leaves):
        return [torch.tensor(leaf, dtype=torch.float64) for leaf in leaves]
    found = [leaf if isinstance(leaf, torch.Tensor) else _from_array(leaf) for leaf in leaves]
    if any((t.shape, t.dtype) != (found[0].shape, found[0].dtype) for t in found):
        shapes = sorted({f"{t.dtype} {list(t.shape)}" for t in found})
        raise SpecError(f"contributions of different shapes can't be aggregated: {', '.join(shapes)}")
    return found


def like_leaf(total: torch.Tensor, leaf: Any) -> Any:
    """Return a total in the form that the contributions had: a number, an array or a tensor."""
    import torch

    if isinstance(leaf, (int, float)):
        return total.item()
    return total if isinstance(leaf, torch.Tensor) else total.numpy()


def _columns(values: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield each name of the maps, or index of the lists, with what every value holds there."""
    first = values[0]
    kind = Mapping if isinstance(first, Mapping) else (list, tuple)
    names = first if isinstance(first, Mapping) else range(len(first))
    for value in values[1:]:
        if not isinstance(value, kind) or len(value) != len(first):
            raise SpecError("contributions of different structure can't be aggregated")
    for name in names:
        try:
            yield name, [value[name] for value in values]
        except KeyError as error:
            raise SpecError(f"contributions can't be aggregated: not all of them have {name!r}") from error


def _from_array(leaf: Any) -> torch.Tensor:
    import numpy
    import torch

    if numpy.ma.is_masked(leaf):
        raise SpecError("masked numbers can't be aggregated: fill them at the nodes, value.filled(0)")
    array = numpy.asarray(leaf)
    if array.dtype.kind not in "biuf":
        raise SpecError(
            f"an aggregator computes with numbers and tensors; a contribution holds {type(leaf).__name__}"
        )
    return torch.from_numpy(numpy.array(array))


def _aggregate_tensors(leaves: Sequence[Any], rule: Rule) -> Any:
    import torch

    tensors = tensors_of(leaves)
    result = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    flat_result = result.view(-1)
    flats = [tensor.reshape(-1) for tensor in tensors]
    whole = not result.is_floating_point()
    for start in range(0, flat_result.numel(), CHUNK):
        part = slice(start, start + CHUNK)
        total = rule(torch.stack([flat[part] for flat in flats]))
        flat_result[part] = total.round() if whole and total.is_floating_point() else total
    return like_leaf(result, leaves[0])

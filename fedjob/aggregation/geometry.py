"""Distances and products between whole contributions, in one pass over their files.

All floating-point numbers count, over all tensors together; tensors of whole
numbers, which are counters, do not. The sums are made in a fixed order by
operations on single elements, so that every processor, with any number of
threads, comes to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedjob.aggregation.base import Origin
from fedjob.aggregation.elementwise import each_leaf, tensors_of
from fedjob.aggregation.mean import mean_of
from fedjob.aggregation.sorting import median_of_rows

if TYPE_CHECKING:
    import torch

Matrix = list[list[float]]
"""A symmetric matrix over contributions."""

_CHUNK = 1 << 14


def squared_distances(values: Sequence[Any]) -> Matrix:
    """Return the squared Euclidean distance of every two values."""
    total = _zeros(len(values))
    for rows in _rows(values):
        for i in range(len(values) - 1):
            apart = rows[i + 1 :] - rows[i]
            for j, number in enumerate(_sums(apart.mul_(apart)), start=i + 1):
                total[i][j] += number
                total[j][i] = total[i][j]
    return total


def products_about_median(values: Sequence[Any]) -> Matrix:
    """Return the inner products of the values' differences from their median, number by number.

    A few wrong contributions can't move this centre far. Measured from it, the small differences between
    the honest values do not vanish in rounding beside the large ones of a contribution that is far out.
    """
    return _products((rows - median_of_rows(rows.clone()) for rows in _rows(values)), len(values))


def products_about(values: Sequence[Any], origin: Origin | None) -> Matrix:
    """Return the inner products of the values' differences from `origin`; None for zero."""
    return _products(_from_origin(values, origin), len(values))


def squared_norms(values: Sequence[Any], origin: Origin | None) -> list[float]:
    """Return the squared Euclidean distance of every value from `origin`; None for zero."""
    total = [0.0] * len(values)
    for rows in _from_origin(values, origin):
        for i, number in enumerate(_sums(rows.mul_(rows))):
            total[i] += number
    return total


def squared_from(products: Matrix, shares: Sequence[float]) -> list[float]:
    """Return the squared distance of every value from `sum(share_k * value_k)`.

    Args:
        products: of the values, about any centre.
        shares: of the values, about the same centre; 0 for values that are infinitely long.
    """
    taken = [i for i, share in enumerate(shares) if share]
    along = [
        math.fsum(shares[i] * row[i] for i in taken) if row[k] < math.inf else 0.0
        for k, row in enumerate(products)
    ]
    length = math.fsum(shares[i] * along[i] for i in taken)
    return [max(0.0, row[k] - 2 * along[k] + length) for k, row in enumerate(products)]


def combined(values: Sequence[Any], shares: Sequence[float], origin: Origin | None) -> Any:
    """Return `origin + sum(share_k * (value_k - origin))`.

    Args:
        shares: any numbers; with a sum of 1 the origin has no part in the result.
    """
    rest = 1.0 - sum(shares)
    if origin is None or rest == 0.0 or values[0] is None:
        return mean_of(values, shares)
    return mean_of([*values, _Completed(origin, values[0])], [*shares, rest])


def _zeros(size: int) -> Matrix:
    return [[0.0] * size for _ in range(size)]


def _products(chunks: Iterator[torch.Tensor], size: int) -> Matrix:
    total = _zeros(size)
    for rows in chunks:
        for i in range(size):
            for j, number in enumerate(_sums(rows[i:] * rows[i]), start=i):
                total[i][j] += number
                total[j][i] = total[i][j]
    return total


def _rows(values: Sequence[Any]) -> Iterator[torch.Tensor]:
    """Yield (contributions, places) in float64, chunk by chunk."""
    import torch

    for leaves in each_leaf(values):
        tensors = tensors_of(leaves)
        if not tensors[0].is_floating_point():
            continue
        flats = [tensor.reshape(-1) for tensor in tensors]
        for start in range(0, flats[0].numel(), _CHUNK):
            yield torch.stack([flat[start : start + _CHUNK] for flat in flats]).to(torch.float64)


def _from_origin(values: Sequence[Any], origin: Origin | None) -> Iterator[torch.Tensor]:
    if origin is None or not isinstance(values[0], Mapping):
        yield from _rows(values)
        return
    for rows in _rows([*values, _Completed(origin, values[0])]):
        yield rows[:-1] - rows[-1]


class _Completed(Mapping[str, Any]):
    """An origin, with zeros for names that it lacks, such as auxiliary variables."""

    def __init__(self, origin: Origin, like: Mapping[str, Any]) -> None:
        self._origin, self._like = origin, like

    def __getitem__(self, name: str) -> Any:
        import torch

        like = self._like[name]
        return self._origin[name] if name in self._origin else torch.zeros_like(like)

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)


def _sums(rows: torch.Tensor) -> list[float]:
    """Return the sum of each row; `rows` is overwritten."""
    length = rows.shape[1]
    while length > 1:
        half = length // 2
        rows[:, :half] += rows[:, length - half : length]
        length -= half
    found: list[float] = rows[:, 0].tolist()
    return found

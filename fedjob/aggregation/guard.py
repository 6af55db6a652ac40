"""The researcher's checks of a contribution before it is aggregated; no node is trusted to have made them.

The checks run in this order, each with its own reason: announced bytes before anything is fetched, then weight and
metrics, then the file's parse, names, dtypes and shapes, then finite values. A norm bound comes after,
never before: `min(1, C / norm)` with a norm of NaN is 1.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.common.checks import check_kinds, check_positive, shown
from fedjob.common.errors import SpecError
from fedjob.metrics.state_checks import MAX_COUNT, odd_state
from fedjob.parameters.files import FileParams
from fedjob.parameters.safetensors_header import Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The optional checks of contributions that a job asks for.

    Args:
        max_norm: largest L2 norm of a node's update, over all floating-point parameters
            together, above 0; longer updates are left out. None does not limit it.
        max_examples_per_row: most examples that a plan makes of each row of a dataset, above 0: 1 for a plan that
            uses rows as they are. A node that claims more is left out. None does not limit it, because windows,
            slices, patches and oversampling make more examples than there are rows.
        max_share: largest share of the total weight that one node may have, above 0 and below 1: a larger weight is
            lowered to it, and the job's log says so. With fewer nodes than `1 / max_share` all weigh the same. None
            does not limit it.
        max_value_mb: most megabytes (2^20 bytes) of a node's plain value and metrics, above 0: what says to be larger
            is not fetched. The protocols that know how much comes back hold less.
    """

    max_norm: float | None = None
    max_examples_per_row: float | None = None
    max_share: float | None = None
    max_value_mb: float = 64.0

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.max_norm is not None:
            check_positive("Guard(max_norm=...)", self.max_norm)
        if self.max_examples_per_row is not None:
            check_positive("Guard(max_examples_per_row=...)", self.max_examples_per_row)
        if self.max_share is not None:
            check_positive("Guard(max_share=...)", self.max_share)
            if self.max_share >= 1:
                raise SpecError(f"Guard(max_share=...) is below 1, such as 0.5, not {shown(self.max_share)}")
        check_positive("Guard(max_value_mb=...)", self.max_value_mb)

    @property
    def value_bytes(self) -> int:
        """The most bytes of a node's plain value and metrics."""
        return int(self.max_value_mb * (1 << 20))


MAX_EXAMPLES_PER_ROW = 1_000_000
"""No plan makes more of a row, such as windows of a recording: more are claimed to outweigh the others."""


def check_weight(
    weight: float, num_examples: int, num_rows: int | None = None, per_row: float | None = None
) -> str:
    """Return why a weight is not plausible; empty if it is.

    Args:
        num_rows: size of the node's dataset, as described last; None if it is not known.
        per_row: most examples that a plan makes of a row; None for any number.
    """
    if not math.isfinite(weight) or weight < 0:
        return f"bad_weight: expected a finite weight of 0 or more, found {weight}"
    if num_examples < 0:
        return f"bad_weight: {num_examples} examples claimed"
    most = min(MAX_COUNT, max(num_rows or 0, 1) * MAX_EXAMPLES_PER_ROW) if num_rows else MAX_COUNT
    if max(num_examples, weight) > most:
        of = f" of {num_rows} rows" if num_rows else ""
        return (
            f"bad_weight: {max(num_examples, weight):g} examples claimed{of}; nobody has more than {most:g}"
        )
    if num_rows is not None and per_row is not None and max(num_examples, weight) > num_rows * per_row:
        return (
            f"bad_weight: {num_examples} examples claimed of {num_rows} rows, more than "
            f"Guard(max_examples_per_row={per_row:g}) lets count: raise it if the plan makes so many of a row, or "
            "search the dataset anew if it has grown"
        )
    return ""


def check_metrics(metrics: Mapping[str, Any]) -> str:
    """Return which metric's state can't be added or stands for no number; empty for none."""
    for phase, states in metrics.items():
        if not isinstance(states, Mapping) or len(states) > MAX_METRICS or len(metrics) > MAX_METRICS:
            return f"bad_metrics: {phase[:80]} is no map of at most {MAX_METRICS} metrics"
        for name, state in states.items():
            if len(name) > MAX_NAME or len(phase) > MAX_NAME:
                return (
                    f"bad_metrics: a metric has a name of more than {MAX_NAME} characters, {name[:40]!r}..."
                )
            if problem := odd_state(state):
                return f"bad_metrics: {name} ({phase}) {problem}"
    return ""


MAX_METRICS = 10_000
"""Metrics of one phase, and phases of one contribution."""

MAX_NAME = 200


def check_tensors(found: FileParams, expected: Schema) -> str:
    """Return what is wrong with a contribution's tensors, or an empty text."""
    return check_schema(found.schema, expected) or not_finite(found)


def check_schema(found: Schema, expected: Schema) -> str:
    """Return what is wrong with the names, dtypes or shapes of a contribution's tensors, or an empty text."""
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    if missing or surplus:
        return f"bad_names: missing {missing[:3]}, unexpected {surplus[:3]}"
    for name, (dtype, shape) in expected.items():
        if found[name] != (dtype, shape):
            got_dtype, got_shape = found[name]
            return f"bad_shape: {name} is {got_dtype} {list(got_shape)}, expected {dtype} {list(shape)}"
    return ""


def check_decoded(found: Any) -> str:
    """Return which number of a decoded value is not finite; empty for none."""
    for place, number in _floats(found, ""):
        if not math.isfinite(number):
            return f"not_finite: {place or 'the value'} is {number}"
    return ""


def check_norm(params: Mapping[str, Any], origin: Mapping[str, Any] | None, max_norm: float | None) -> str:
    """Return that the norm of an update is too large; empty if it is not.

    Args:
        params: the node's parameters, all finite.
        origin: the parameters from which the update is measured; None for zero.
        max_norm: None does not limit.
    """
    from fedjob.aggregation.geometry import squared_norms

    if max_norm is None:
        return ""
    norm = math.sqrt(squared_norms([params], origin)[0])
    return (
        f"long_update: the update is {norm:.4g} long, at most {max_norm:.4g} counts"
        if norm > max_norm
        else ""
    )


def not_finite(params: Mapping[str, Any]) -> str:
    """Return which floating-point tensor holds NaN or infinity; empty for none."""
    from fedjob.parameters.finiteness import first_not_finite

    name = first_not_finite(params)
    return "" if name is None else f"not_finite: {name} holds NaN or infinity"


def _floats(found: Any, place: str) -> Iterator[tuple[str, float]]:
    """Yield the floating-point numbers of a value with their places; of an array, one that stands for all."""
    import numpy
    import torch

    if isinstance(found, float):
        yield place, found
    elif isinstance(found, complex):
        yield place, found.real if not math.isfinite(found.real) else found.imag
    elif isinstance(found, decimal.Decimal):
        yield place, 0.0 if found.is_finite() else math.nan
    elif isinstance(found, torch.Tensor):
        if found.is_floating_point() or found.is_complex():
            yield place, 0.0 if bool(torch.isfinite(found).all()) else math.nan
    elif isinstance(found, numpy.ndarray):
        if found.dtype.kind in "fc":
            yield place, 0.0 if bool(numpy.isfinite(found).all()) else math.nan
    elif isinstance(found, Mapping):
        for name, item in found.items():
            yield from _floats(item, f"{place}.{name}".lstrip("."))
    elif isinstance(found, (list, tuple)):
        for index, item in enumerate(found):
            yield from _floats(item, f"{place}[{index}]")

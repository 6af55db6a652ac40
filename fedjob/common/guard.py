"""What a contribution must be like before it counts; nobody is trusted to have checked it.

The checks run in this order, each with its own reason: weight, then the file's
parse, names, dtypes and shapes, then finite values. A norm bound comes after,
never before: `min(1, C / norm)` with a norm of NaN is 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedjob.common.params import FileParams, Schema


def check_weight(weight: float, num_examples: int, num_rows: int | None) -> str:
    """Return why a weight can't be believed, or nothing.

    Args:
        num_rows: registered size of the node's dataset; None if it is not known.
    """
    if not math.isfinite(weight) or weight < 0:
        return f"bad_weight: expected a finite weight of 0 or more, found {weight}"
    if num_rows is not None and num_rows > 0 and (num_examples > num_rows or weight > num_rows):
        return f"bad_weight: {num_examples} examples claimed of a dataset registered with {num_rows} rows"
    return ""


def check_tensors(found: FileParams, expected: Schema) -> str:
    """Return what is wrong with a contribution's tensors, or nothing."""
    missing = [name for name in expected if name not in found.schema]
    surplus = [name for name in found.schema if name not in expected]
    if missing or surplus:
        return f"bad_names: missing {missing[:3]}, unexpected {surplus[:3]}"
    for name, (dtype, shape) in expected.items():
        if found.schema[name] != (dtype, shape):
            got_dtype, got_shape = found.schema[name]
            return f"bad_shape: {name} is {got_dtype} {list(got_shape)}, expected {dtype} {list(shape)}"
    return not_finite(found)


def not_finite(params: Mapping[str, Any]) -> str:
    """Return which floating-point tensor holds NaN or infinity, or nothing."""
    import torch

    for name in params:
        tensor = params[name]
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)
            if not (torch.isfinite(low) and torch.isfinite(high)):
                return f"not_finite: {name} holds NaN or infinity"
    return ""

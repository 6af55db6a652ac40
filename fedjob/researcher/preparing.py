"""Which preprocessing goes with which dataset of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.preprocess import PlainSteps


def num_entries(data: Any) -> int:
    """Return how many entries a job's `data` has."""
    return len(data) if isinstance(data, (list, tuple)) else 1


def attach(
    steps: Sequence[PlainSteps], data: Any, datasets: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Write to each node's dataset the steps that prepare it.

    Args:
        steps: none, one list for all, or one for each entry of `data`, which are then "node/name" or handles.

    Raises:
        SpecError: an entry of `data` does not name one dataset.
    """
    if not steps:
        return dict(datasets)
    if len(steps) == 1:
        return {node: {**info, "preprocess": steps[0]} for node, info in datasets.items()}
    own: dict[str, PlainSteps] = {}
    for entry, plain in zip(data, steps, strict=True):
        node = str(entry).partition("/")[0]
        if node not in datasets:
            raise SpecError(
                f"a list of preprocess for each dataset needs data as 'node/name' or handles; found {entry!r}"
            )
        own[node] = plain
    return {node: {**info, "preprocess": own.get(node, [])} for node, info in datasets.items()}

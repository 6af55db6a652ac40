"""The preprocessing of each dataset of a job, and the values of it that are known from an earlier job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.types import seat
from fedjob.data.preprocessing import PlainSteps
from fedjob.data.preprocessing.learning import taken_over, to_learn_together
from fedjob.data.shares import SharedDatasets


def num_entries(data: Any) -> int:
    """Return how many entries a job's `data` has."""
    return len(data) if isinstance(data, (list, tuple)) else 1


def attach(
    steps: Sequence[PlainSteps], data: Any, datasets: Mapping[str, dict[str, Any]]
) -> Mapping[str, dict[str, Any]]:
    """Write to each node's dataset the steps that prepare it.

    Args:
        steps: none, one list for all, or one for each entry of `data`, which are then "node/name" or handles.

    Raises:
        SpecError: an entry of `data` does not name one dataset.
    """
    if isinstance(datasets, SharedDatasets) and len(steps) <= 1:
        prepared = {"preprocess": steps[0]} if steps else {}
        return replace(datasets, info={**datasets.info, **prepared})
    if not steps:
        return dict(datasets)
    if len(steps) == 1:
        return {node: {**info, "preprocess": steps[0]} for node, info in datasets.items()}
    own: dict[str, PlainSteps] = {}
    for entry, plain in zip(data, steps, strict=True):
        node, _, name = str(entry).partition("/")
        node = node if node in datasets else seat(node, name)
        if node not in datasets:
            raise SpecError(
                f"a list of preprocess for each dataset needs data as 'node/name' or handles; found {entry!r}"
            )
        own[node] = plain
    return {node: {**info, "preprocess": own.get(node, [])} for node, info in datasets.items()}


def with_known(
    steps: list[PlainSteps], trained_on: Sequence[PlainSteps] | None, learned: PlainSteps
) -> tuple[list[PlainSteps], PlainSteps]:
    """Return a job's preprocessing, and the complete steps of it that are known before it begins.

    Args:
        steps: as the job gives them; none for those of the training, where there was one.
        trained_on: the lists of the training, for a job that uses a trained model; None for others.
        learned: what was found for them then.

    Raises:
        SpecError: the lists don't agree on what is to be found, or the model was trained with other steps.
    """
    to_learn_together(steps)
    if trained_on is None:
        return steps, []
    if not steps:
        if len(trained_on) > 1:
            raise SpecError(
                "the model was trained with a list of preprocess for each dataset: give this job its own, preprocess=[...]"
            )
        return list(trained_on), learned
    return steps, taken_over(steps[0], trained_on[0] if trained_on else [], learned)

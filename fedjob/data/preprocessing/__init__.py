"""Preprocessing: a declared list of steps that a node runs before the plan sees the data.

Nothing is written to disk, and the owner's files stay as they are. The steps are
plain data. They are part of the job's spec, of the work that an owner approves, and
of the hash that names this work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedjob.common.checks import shown
from fedjob.common.errors import SpecError
from fedjob.common.registry import Registry
from fedjob.data.preprocessing.base import Step

STEPS: Registry[Step] = Registry(
    "step",
    {
        "select": "fedjob.data.preprocessing.columns:Select",
        "target": "fedjob.data.preprocessing.columns:Target",
        "filter": "fedjob.data.preprocessing.rows:Filter",
        "impute": "fedjob.data.preprocessing.missing:Impute",
        "encode": "fedjob.data.preprocessing.categories:Encode",
        "bin": "fedjob.data.preprocessing.categories:Bin",
        "scale": "fedjob.data.preprocessing.scale:Scale",
        "cast": "fedjob.data.preprocessing.columns:Cast",
        "resize": "fedjob.data.preprocessing.images:Resize",
    },
)

PlainSteps = list[dict[str, Any]]
"""Steps as data: `[{"step": name, field: value, ...}, ...]`."""


def to_plain_steps(steps: Iterable[Any]) -> PlainSteps:
    """Return steps as plain data; steps that are plain data already are checked.

    Raises:
        SpecError: one of them is not a step.
    """
    plain = []
    for step in steps:
        if isinstance(step, Mapping):
            step = _build(step)
        if not isinstance(step, Step):
            raise SpecError(f"preprocess is a list of steps such as Select(['age']); found {shown(step)}")
        name, config = STEPS.config_of(step)
        plain.append({"step": name, **config})
    return plain


def build_steps(plain: Sequence[Mapping[str, Any]]) -> list[Step]:
    """Return the steps that plain data describes.

    Raises:
        SpecError: a step is unknown; the message names the step with the most similar name.
    """
    return [_build(step) for step in plain]


def _build(plain: Mapping[str, Any]) -> Step:
    config = dict(plain)
    return STEPS.build(str(config.pop("step", "")), config)


def canonical(plain: Sequence[Mapping[str, Any]]) -> str:
    """Return the canonical JSON text of a list of steps: equal steps give equal text.

    Raises:
        SpecError: a value that no step can have, such as bytes.
    """
    try:
        return json.dumps(list(plain), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"preprocess: {error}") from error


def per_dataset(preprocess: Any, num_datasets: int) -> list[PlainSteps]:
    """Return one list of steps for all datasets, or one for each.

    Args:
        preprocess: None, a list of steps, or a list of such lists.
        num_datasets: number of entries of the job's `data`.

    Returns:
        No list, one list, or `num_datasets` lists.

    Raises:
        SpecError: there is another number of lists, or something that is no list of steps.
    """
    if preprocess is None:
        return []
    if isinstance(preprocess, (str, bytes, Mapping)) or not isinstance(preprocess, Sequence):
        raise SpecError(f"preprocess is a list of steps, or a list of lists, not {shown(preprocess)}")
    if not preprocess:
        return []
    nested = [isinstance(entry, Sequence) and not isinstance(entry, str) for entry in preprocess]
    if not any(nested):
        return [to_plain_steps(preprocess)]
    if not all(nested) or len(preprocess) not in (1, num_datasets):
        raise SpecError(
            f"preprocess is one list of steps for all datasets, or one for each of the {num_datasets}; "
            f"found {len(preprocess)}"
        )
    return [to_plain_steps(steps) for steps in preprocess]

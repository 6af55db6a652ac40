"""The comparison of jobs: the settings in which they differ, and what they measured, beside each other. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedjob.common.notebooks.plain_tables import cell_text
from fedjob.researcher.storage.measurements import OVERALL, Measurement, series
from fedjob.researcher.storage.spec import JobSpec

MAX_COMPARED = 6
MAX_VALUE_CHARS = 300
MAX_DIFF_LINES = 400

_OWN = frozenset(("id", "version", "owner_key", "cloned_from", "federation"))
"""Fields that differ between any two jobs, or say nothing about what is computed."""


def settings_of(spec: JobSpec) -> dict[str, str]:
    """Return the settings of a job by name, those within others as `training_args.lr`."""
    found: dict[str, str] = {}
    for name, value in asdict(spec).items():
        if name not in _OWN:
            _flatten(name, value, found)
    return found


def _flatten(name: str, value: Any, found: dict[str, str]) -> None:
    if isinstance(value, Mapping) and value and name.count(".") < 3:
        for key, item in value.items():
            _flatten(f"{name}.{key}", item, found)
        return
    text = f"{value:.10g}" if isinstance(value, float) else cell_text(value)
    found[name] = text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"


def differences(settings: Sequence[Mapping[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Return each setting that is not the same in all jobs, with the value of each; empty where a job has none."""
    names = dict.fromkeys(name for one in settings for name in one)
    rows = [(name, tuple(one.get(name, "") for one in settings)) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def metric_names(measured: Iterable[Sequence[Measurement]]) -> list[str]:
    """Return the metrics that at least one of the jobs has over all nodes."""
    return list(dict.fromkeys(row.metric for rows in measured for row in rows if row.node == OVERALL))


def last_values(rows: Sequence[Measurement], metrics: Sequence[str]) -> dict[str, float | None]:
    """Return the last value of each metric over all nodes; None where there is none."""
    found: dict[str, float | None] = {}
    for metric in metrics:
        values = series(rows, metric)
        found[metric] = values[max(values)] if values else None
    return found


def plan_changes(before: str, after: str) -> list[tuple[str, str]]:
    """Return the lines of a difference of two texts, each with its kind: `place`, `added`, `removed` or none."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    kinds = {"@": "place", "+": "added", "-": "removed"}
    found = [(kinds.get(line[:1], ""), line) for number, line in enumerate(lines) if number > 1]
    if len(found) > MAX_DIFF_LINES:
        found = [*found[:MAX_DIFF_LINES], ("place", f"… {len(found) - MAX_DIFF_LINES} more lines")]
    return found

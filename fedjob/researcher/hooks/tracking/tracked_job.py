"""A job as services that track experiments want it: flat parameters, tags, and keys of metrics. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import Measurement
from fedjob.researcher.storage.spec import Component, JobSpec

MAX_VALUE = 500
"""Characters of a parameter's value that are told: the least that the services bear."""

_NO_KEY = re.compile(r"[^\w./ -]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedJob:
    """What a service is told of a job when it begins.

    Args:
        params: flat name -> value, such as `training_args.lr` -> `0.1`.
        tags: what identifies the job: `fedjob.job`, `fedjob.nodes`, ...
        plan: the plan's exact text; None for a job without a plan of the researcher's.
        folder: the job's.
    """

    id: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    plan: Path | None
    folder: Path

    @classmethod
    def of(cls, spec: JobSpec, folder: JobFolder) -> TrackedJob:
        """Return what there is to tell of a job."""
        settings: dict[str, Any] = {
            "protocol": spec.protocol,
            "rounds": spec.rounds,
            "seed": spec.seed,
            "aggregator": spec.aggregator,
            "selector": spec.selector,
            "model_args": spec.model_args,
            "training_args": spec.training_args,
            "quorum": spec.quorum,
            "guard": spec.guard,
            "protect": spec.protect,
        }
        tags = {
            "fedjob.job": spec.id,
            "fedjob.researcher": spec.researcher,
            "fedjob.federation": spec.federation,
            "fedjob.nodes": ", ".join(sorted(spec.datasets)),
            "fedjob.plan_sha256": spec.plan_hash,
            "fedjob.cloned_from": spec.cloned_from,
            "fedjob.note": spec.note,
        }
        return cls(
            id=spec.id,
            name=spec.name or spec.id,
            params={name: _short(value) for name, value in _flat(settings)},
            tags={name: _short(value) for name, value in tags.items() if value},
            plan=folder.plan if folder.plan.exists() else None,
            folder=folder.path,
        )


def metric_key(row: Measurement) -> str:
    """Return the key of a measurement: `accuracy/before/NODE`, with `all` for all nodes together."""
    return _NO_KEY.sub("_", f"{row.metric}/{row.phase}/{row.node}")


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        key = _NO_KEY.sub("_", f"{before}{name}")
        if isinstance(value, Component):
            yield key, value.name or value.entry
            yield from _flat(value.config, f"{key}.")
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif value is not None:
            yield key, value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"

"""The strictest settings of a node, which hold while its owner's settings can't be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields

from fedjob.common.config import Scalar
from fedjob.node.config.config import NodeConfig

ALWAYS: Mapping[str, Scalar] = {
    "approval": "on",
    "plans": "",
    "own_of": "",
    "ask_data": "*",
    "bring": "off",
    "sandbox": "on",
    "publish_mocks": "off",
    "publish_speed": "off",
    "errors": "reason",
    "logs_mock": "none",
    "logs_private": "none",
}
"""What holds whatever the file says of them, while anything in it can't be read."""

UNREADABLE: Mapping[str, Scalar] = {
    "encryption": "on",
    "unknown": "deny",
    "operations": "",
    "projects": "",
    "verifier": "nobody",
    "verifier_options": "",
    "workers": 0,
}
"""What holds of a setting that can't be read and of which no earlier value is known."""

LENDING = frozenset(
    {
        "hours",
        "launcher",
        "launcher_options",
        "cpus",
        "memory",
        "gpus",
        "gpu_jobs",
        "pools",
        "worker_memory_mb",
    }
)
"""Settings that bound what a task may take: without them no task begins."""


def strictest(
    values: Mapping[str, Scalar], faulty: Collection[str], last: Mapping[str, Scalar] | None
) -> NodeConfig:
    """Return the settings that hold while some can't be read.

    Args:
        values: those that can.
        faulty: names of those that can't; the empty name stands for the whole file.
        last: the settings of the last time when all could be read; None if that is not known.
    """
    readable = {field.name for field in fields(NodeConfig)}
    lost = readable if "" in faulty else {name for name in faulty if name in readable}
    chosen: dict[str, Scalar] = {name: value for name, value in values.items() if name not in lost}
    for name in lost:
        if last is not None and name in last:
            chosen[name] = last[name]
            continue
        if name in UNREADABLE:
            chosen[name] = UNREADABLE[name]
        if name in LENDING:
            chosen["workers"] = 0
    return NodeConfig(**{**chosen, **ALWAYS})  # type: ignore[arg-type]

"""The identity of one worker, its folder at the node, and where in its sandbox it finds the inputs of its tasks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedjob.execution.orders import WorkOrder
from fedjob.node.config.config import NodeConfig, machine_memory_bytes
from fedjob.node.config.home import NodeHome
from fedjob.node.sandbox.enclosure import Enclosure

INBOX_NAME = "inbox"
"""The folder of an attempt, and of a worker, that holds the inputs of tasks."""

PROCESSES_AT_LEAST = 256
_COMPANIONS = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """One job under one grant, with one plan, on one version of one dataset, for one use.

    A worker that has run user code may have been changed by it, so that it never computes for another identity.

    Args:
        grant: that it runs under; empty for what needs none.
        plan: hash of the plan's text; empty for a built-in operation.
        dataset: its name, or the hash of the data that the researcher brought.
        version: of the dataset's content.
        use: `private` or `mock`.
        gpus: the devices that its job holds.
        models: paths of the files of models that it may read.
        origin: of the data and the protection that it computes under, see `task.origin_of`: what a process has seen under
            one protection another one may not let out.
    """

    job: str
    grant: str = ""
    plan: str = ""
    dataset: str = ""
    version: str = ""
    use: str = "private"
    gpus: tuple[int, ...] = ()
    models: tuple[str, ...] = ()
    origin: str = ""

    def replaces(self, other: WorkerIdentity) -> bool:
        """Tell whether the other is of no use any more once this one is there: of older data or files, or other devices."""
        return self != other and _whatever_holds(self) == _whatever_holds(other)


def _whatever_holds(identity: WorkerIdentity) -> WorkerIdentity:
    return replace(identity, version="", gpus=(), models=())


def enclosure_for(
    home: NodeHome,
    config: NodeConfig,
    kind: str,
    name: str,
    dataset: Mapping[str, Any],
    identity: WorkerIdentity,
) -> Enclosure:
    """Make a worker's folder and return its sandbox.

    Args:
        kind: of the sandbox.
        name: of the worker's folder.
        dataset: what the worker opens its data by; empty for none.
        identity: the worker's, with its devices and the files of models.
    """
    folder = home.scratch_of(name)
    for inside in ("root", INBOX_NAME, "work"):
        (folder / inside).mkdir(parents=True, mode=0o700)
    return Enclosure(
        kind=kind,
        folder=str(folder),
        hidden=str(home.root),
        data=tuple(dict.fromkeys((*_data_paths(dataset), *identity.models))),
        work_bytes=min(config.scratch_mb << 20, machine_memory_bytes() // 2),
        file_bytes=max(config.result_mb, config.scratch_mb) << 20,
        processes=PROCESSES_AT_LEAST + 4 * config.torch_threads,
        gpus=identity.gpus,
    )


def _data_paths(dataset: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files and folders of a dataset that exist, and what belongs beside a database's file."""
    for part in (dataset, *dataset.get("assets", ())):
        path = str(part.get("path") or "")
        if path and os.path.exists(path):
            yield os.path.abspath(path)
            if part.get("reader") == "sql":
                yield from (path + end for end in _COMPANIONS if os.path.exists(path + end))


def read_elsewhere(dataset: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a dataset whose rows a database elsewhere has: a worker in a sandbox can't reach it."""
    for part in dataset.get("assets") or (dataset,):
        if part.get("reader") == "sql" and str(part.get("path", "")).endswith(".toml"):
            yield {name: part[name] for name in ("path", "reader", "options") if name in part}


def move_inputs(order: WorkOrder, enclosure: Enclosure, place: str) -> WorkOrder:
    """Move the inputs of an attempt to its worker, and return the order with the paths that the worker sees.

    Args:
        place: name of the task's folder in the worker's inbox.

    Raises:
        OSError: they could not be moved.
    """
    attempt = Path(order.output_path, INBOX_NAME)
    if attempt.is_dir():
        os.rename(attempt, Path(enclosure.folder, INBOX_NAME, place))
    before, after = str(attempt), f"{enclosure.inbox}/{place}"

    def moved(path: str) -> str:
        return after + path.removeprefix(before) if path.startswith(before + "/") else path

    return replace(
        order,
        params={name: moved(path) for name, path in order.params.items()},
        artifacts={name: moved(path) for name, path in order.artifacts.items()},
        state_path=moved(order.state_path),
        known_path=moved(order.known_path),
    )

"""The inputs of a task, fetched at its start and put into the order that a worker computes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import MAX_ELEMENTS, unpack
from fedjob.common.errors import DecodeError, NodeFailure
from fedjob.common.files import link_or_copy, private
from fedjob.common.types import Ref
from fedjob.data.item_choice import Known, save_known
from fedjob.execution.orders import WorkOrder, work_order_of
from fedjob.messaging.messages import Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.data.brought_data import Brought
from fedjob.node.data.datasets import RegisteredDataset
from fedjob.node.data.models import OwnModels
from fedjob.node.execution.worker_place import INBOX_NAME
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.task import inputs_of
from fedjob.node.storage.spool import Spool
from fedjob.repository.base import Repository

KNOWN_NAME = "known.json"
MAX_BLOB_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInputs:
    """A task that is to start, and what the daemon knows of it.

    Args:
        run: tells this attempt from earlier ones at the same task.
        plan: its text, where the daemon has it.
        folder: an existing, empty one for what comes out.
        limits: of the owner, by name, see `Local`.
        known: the items that the ledger knows, for a job that asks for new ones.
        noise: the terms of differential privacy; empty for none.
        attached: sha256 -> the bytes of parameters that came with the task.
    """

    row: TaskRow
    run: int
    task: Task
    dataset: RegisteredDataset | None
    plan: bytes | None
    folder: Path
    limits: Mapping[str, Any]
    known: Known | None
    noise: Mapping[str, Any]
    attached: Mapping[str, bytes] = field(default_factory=dict)


def is_at_hand(wanted: TaskInputs) -> bool:
    """Return whether nothing of a task's inputs has to be fetched or read: its few parameters came with it."""
    task = wanted.task
    named = {ref.sha256 for ref in task.params.values()}
    elsewhere = task.artifacts or task.blobs or task.files or task.models or task.state or wanted.row.parent
    has_plan = task.plan is None or wanted.plan is not None
    return has_plan and not elsewhere and wanted.known is None and named <= wanted.attached.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The places that a task's inputs come from.

    Args:
        config: the owner's settings at this moment.
        node: the node's name.
        brought: data that researchers bring.
    """

    home: NodeHome
    config: NodeConfig
    node: str
    spool: Spool
    repository: Repository
    brought: Brought


def order_of(wanted: TaskInputs, sources: Sources) -> WorkOrder:
    """Fetch what a task needs into the attempt's folder, and return the order for a worker.

    Parameters, artifacts, the node state and what is known of items get a second name in `inbox`, since a worker sees
    no other file of the node's home.

    Raises:
        FedjobError: an object, the plan or the node state is missing or damaged, or takes too much.
    """
    row, task, dataset = wanted.row, wanted.task, wanted.dataset
    inbox = wanted.folder / INBOX_NAME
    inbox.mkdir(mode=0o700, exist_ok=True)
    state_path = _state_path(row, task, inbox, sources)
    plan = wanted.plan
    if plan is None and task.plan is not None:
        plan = sources.repository.get_bytes(task.plan, limit_bytes=task.plan.size_bytes)
    _check_memory(task, sources)
    order = work_order_of(
        task,
        key=row.key,
        job=row.job,
        round_=row.round,
        step=row.step,
        node=sources.node,
        plan_text="" if plan is None else plan.decode(),
        dataset=_data(row, task, dataset, sources),
        path_of=lambda ref: _path_of(ref, wanted.attached.get(ref.sha256), inbox, sources),
        value_of=lambda name, ref: _blob(name, ref, sources),
        state_path=state_path,
        output_path=str(wanted.folder),
    )
    order = replace(
        order,
        training_args={**task.training_args, **inputs_of(task, sources.spool)}
        if row.parent
        else order.training_args,
        child=row.child,
        limits=dict(wanted.limits),
        releases_path=_releases_path(task, dataset, sources),
        known_path="" if wanted.known is None else str(inbox / KNOWN_NAME),
        noise=dict(wanted.noise),
        models=OwnModels(sources.home.models).files(task.models),
    )
    if wanted.known is not None:
        save_known(wanted.known, inbox / KNOWN_NAME)
    return order


def _path_of(ref: Ref, attached: bytes | None, inbox: Path, sources: Sources) -> Path:
    """Put an object among a task's inputs: one that is fetched by a second name, one that came with the task as it is."""
    if attached is None:
        return _placed(sources.spool.fetch(ref), inbox)
    path = inbox / ref.sha256
    # buffered, for a raw file takes a part of it on a disk that is nearly full
    with open(path, "wb", opener=private) as file:
        file.write(attached)
    return path


def _placed(path: Path, inbox: Path) -> Path:
    """Give a file of the spool a second name among a task's inputs; several tasks' inputs may be one file."""
    placed = inbox / path.name
    if not placed.exists():
        link_or_copy(path, placed)
    return placed


def _state_path(row: TaskRow, task: Task, inbox: Path, sources: Sources) -> str:
    """Return where the node state is that a task starts from; empty for a fresh one."""
    if task.state is None:
        return ""
    path = sources.home.state_of(row.job, task.state)
    if not path.exists():
        raise NodeFailure(sources.node, "state_missing", f"there is no node state {task.state[:64]!r}")
    return str(_placed(path, inbox))


def _check_memory(task: Task, sources: Sources) -> None:
    """Refuse parameters that no worker could hold, before they are fetched."""
    unpacked = task.compress.get("num_bytes")
    params_bytes = sum(ref.size_bytes for ref in task.params.values())
    if unpacked is not None and type(unpacked) is not int:
        raise DecodeError("compress: num_bytes is a whole number of bytes")
    params_bytes = max(params_bytes, unpacked or 0)
    limit_bytes = sources.config.worker_memory_bytes
    if params_bytes > limit_bytes:
        raise NodeFailure(
            sources.node,
            "out_of_memory",
            f"the model's parameters have {_mb(params_bytes)} MB; a worker may have {_mb(limit_bytes)} MB here",
        )


def _blob(name: str, ref: Ref, sources: Sources) -> Any:
    """Return a value that was too large for the message."""
    if ref.size_bytes > MAX_BLOB_BYTES:
        raise DecodeError(f"value {name} has {ref.size_bytes} bytes; at most {MAX_BLOB_BYTES}")
    return unpack(sources.spool.fetch(ref).read_bytes(), max_elements=MAX_ELEMENTS)


def _data(row: TaskRow, task: Task, dataset: RegisteredDataset | None, sources: Sources) -> dict[str, Any]:
    """Return what the worker opens the data by; nothing for a task without data."""
    if dataset is not None:
        # how many rows a mock has is nobody's concern
        counted = {"num_rows": dataset.num_rows} if task.use == "private" else {}
        return {**dataset.opened_as(task.use), **counted, "preprocess": task.preprocess}
    if task.files is None:
        return {}
    opened = sources.brought.open(row.job, task.files, limit_bytes=sources.config.bring_mb << 20)
    return {**opened, "preprocess": task.preprocess}


def _releases_path(task: Task, dataset: RegisteredDataset | None, sources: Sources) -> str:
    """Return where the record of what was released of the dataset is; a mock needs none."""
    return "" if dataset is None or task.use == "mock" else str(sources.home.releases_of(dataset.name))


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.4g}"

"""From an accepted task to what a worker computes, and from its result to what the researcher is told.

Both stages run on a few threads, for they wait for the network and the disk; the
daemon's loop hears of their end through `notify`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedjob.common.choosing import Known, save_known
from fedjob.common.codec import from_plain, pack, unpack
from fedjob.common.errors import (
    DecodeError,
    EncodeError,
    FedjobError,
    NodeFailure,
    ObjectTooLarge,
    RepositoryError,
    RepositoryUnreachable,
)
from fedjob.common.messages import MAX_INLINE_BYTES, Result, Task
from fedjob.common.orders import WorkOrder, WorkResult
from fedjob.common.repository.base import Repository
from fedjob.common.types import Ref
from fedjob.common.usage import INFERENCES, Usage, capped
from fedjob.node.brought import Brought
from fedjob.node.datasets import Dataset
from fedjob.node.ledger import read_items
from fedjob.node.settings import NodeConfig, NodeHome
from fedjob.node.spool import Spool
from fedjob.node.task import failure, inputs_of, task_of, without_places
from fedjob.node.taskkeeping import TaskRow

NUM_THREADS = 4
KNOWN_NAME = "known.json"
MAX_BLOB_BYTES = 64 * 1024 * 1024
LARGE_BYTES = 1 << 20
"""Results from this size on are removed from the hub as soon as they are not needed; others at the job's end."""

MAX_METRICS_BYTES = 1 << 20
MAX_TRACE_CHARS = 8000
RETRY_AFTER_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses between attempts to bring a finished result to a repository that does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A task that is to start, and what the daemon knows of it.

    Args:
        run: tells this attempt from earlier ones at the same task.
        plan: its text, where the daemon has it.
        folder: an existing, empty one for what comes out.
        limits: of the owner, by name, see `Local`.
        known: the items that the ledger knows, for a job that asks for new ones.
    """

    row: TaskRow
    run: int
    task: Task
    dataset: Dataset | None
    plan: bytes | None
    folder: Path
    limits: Mapping[str, Any]
    known: Known | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task's objects are here; the order can go to a worker."""

    key: str
    run: int
    order: WorkOrder


@dataclass(frozen=True, slots=True)
class Unprepared:
    """A task can't start: an object, its plan or its node state is missing."""

    key: str
    run: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A finished result is in the repository (or was a failure): what to answer.

    Args:
        state: id of the node state that it proposes; empty for none.
        trace, report: for the node's log.
        items: that it worked on, for the ledger; None where they are not remembered.
    """

    key: str
    run: int
    result: Result
    state: str = ""
    message: str = ""
    trace: str = ""
    report: str = ""
    items: dict[str, list[list[Any]]] | None = None


@dataclass(frozen=True, slots=True)
class Unstored:
    """The repository does not take a finished result yet."""

    key: str
    run: int
    detail: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """Small bytes that the loop asked for; `data` is None where that failed."""

    ref: Ref
    data: bytes | None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ensured:
    """The objects of an old result are (again) in the repository."""

    message: str


RunEvent = Prepared | Unprepared | Stored | Unstored | Fetched | Ensured


class Runs:
    """The daemon's threads.

    Args:
        notify: takes a `RunEvent` on one of these threads; must not block.
        point: called at the named steps; a test may end the process there.
    """

    def __init__(
        self,
        *,
        home: NodeHome,
        config: NodeConfig,
        node: str,
        spool: Spool,
        repository: Repository,
        notify: Callable[[RunEvent], None],
        point: Callable[[str], None],
    ) -> None:
        self.config = config
        self._home = home
        self._node = node
        self._spool = spool
        self.repository = repository
        self._notify = notify
        self._point = point
        self.brought = Brought(home.brought, repository)
        self._large: dict[str, Ref] = {}
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="run")

    def prepare(self, wanted: Wanted) -> None:
        """Fetch what a task needs; ends in `Prepared` or `Unprepared`."""
        self._pool.submit(self._prepare, wanted)

    def store(self, row: TaskRow, run: int, folder: Path | None, *, min_rows: int) -> None:
        """Make a finished result the task's and put it into the repository; `Stored` or `Unstored`.

        Args:
            folder: the worker's; None if the result is in its place already.
            min_rows: a result that was computed from fewer examples never leaves.
        """
        self._pool.submit(self._store, row, run, folder, min_rows)

    def fetch(self, ref: Ref, limit_bytes: int) -> None:
        """Fetch small bytes; ends in `Fetched`."""
        self._pool.submit(self._fetch, ref, limit_bytes)

    def ensure(self, row: TaskRow, message: str) -> None:
        """Put an old result's objects where they are missing; ends in `Ensured`."""
        self._pool.submit(self._ensure, row, message)

    def release(self, key: str) -> None:
        """Remove a task's result here and, where it is large, at the hub: the researcher is done with it."""
        self._pool.submit(self._release, key)

    def end_job(self, job: str) -> None:
        """Remove what was brought for a job."""
        self._pool.submit(self.brought.end_job, job)

    def later(self, action: Callable[[], None]) -> None:
        """Do something that may wait for the disk and that nobody waits for."""
        self._pool.submit(action)

    def stop(self) -> None:
        """Wait for what is being done; start nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    # --- inside ------------------------------------------------------------------------------

    def _prepare(self, wanted: Wanted) -> None:
        key, run = wanted.row.key, wanted.run
        try:
            order = self._order(wanted)
            if wanted.known is not None:
                order = replace(order, known_path=str(wanted.folder / KNOWN_NAME))
                save_known(wanted.known, wanted.folder / KNOWN_NAME)
            self._point("fetched")
        except NodeFailure as failure:
            self._notify(Unprepared(key, run, failure.reason, failure.detail))
        except FedjobError as error:
            self._notify(Unprepared(key, run, error.reason, without_places(error)))
        except Exception as error:  # a thread's exception would go unheard
            self._notify(Unprepared(key, run, "internal", type(error).__name__))
        else:
            self._notify(Prepared(key, run, order))

    def _order(self, wanted: Wanted) -> WorkOrder:
        row, task, dataset, plan = wanted.row, wanted.task, wanted.dataset, wanted.plan
        state_path = ""
        if task.state is not None:
            path = self._home.state_of(row.job, task.state)
            if not path.exists():
                raise NodeFailure(self._node, "state_missing", f"there is no node state {task.state[:64]!r}")
            state_path = str(path)
        if plan is None and task.plan is not None:
            plan = self.repository.get_bytes(task.plan, limit_bytes=task.plan.size_bytes)
        params_bytes = sum(ref.size_bytes for ref in task.params.values())
        if params_bytes > self.config.worker_memory_bytes:
            raise NodeFailure(
                self._node,
                "out_of_memory",
                f"the model's parameters have {_mb(params_bytes)} MB; a worker may have "
                f"{_mb(self.config.worker_memory_bytes)} MB here",
            )
        params = {name: str(self._spool.fetch(ref)) for name, ref in task.params.items()}
        values = dict(task.values)
        for name, ref in task.blobs.items():
            if ref.size_bytes > MAX_BLOB_BYTES:
                raise DecodeError(f"value {name} has {ref.size_bytes} bytes; at most {MAX_BLOB_BYTES}")
            values[name] = unpack(self._spool.fetch(ref).read_bytes())
        return WorkOrder(
            key=row.key,
            job=row.job,
            round=row.round,
            step=row.step,
            node=self._node,
            protocol=task.protocol,
            config=task.config,
            plan_text="" if plan is None else plan.decode(),
            entry=task.entry,
            dataset=self._data(row, task, dataset),
            values=values,
            params=params,
            model_args=task.model_args,
            training_args={**task.training_args, **(inputs_of(task, self._spool) if row.parent else {})},
            seed=task.seed,
            state_path=state_path,
            output_path=str(wanted.folder),
            props=task.props,
            items=task.items,
            split=task.split,
            project=task.project,
            artifacts={name: str(self._spool.fetch(ref)) for name, ref in task.artifacts.items()},
            child=row.child,
            limits=dict(wanted.limits),
            releases_path=self._releases(task, dataset),
        )

    def _releases(self, task: Task, dataset: Dataset | None) -> str:
        """Return where it is kept what was told of the dataset; a mock has nothing to tell."""
        return "" if dataset is None or task.use == "mock" else str(self._home.releases_of(dataset.name))

    def _data(self, row: TaskRow, task: Task, dataset: Dataset | None) -> dict[str, Any]:
        """Return what the worker opens the data by; nothing for a task without data."""
        if dataset is not None:
            return {**dataset.opened_as(task.use), "preprocess": task.preprocess}
        if task.files is None:
            return {}
        opened = self.brought.open(row.job, task.files, limit_bytes=self.config.bring_mb << 20)
        return {**opened, "preprocess": task.preprocess}

    def _store(self, row: TaskRow, run: int, folder: Path | None, min_rows: int) -> None:
        try:
            if folder is not None:
                self._spool.finish(row.key, folder)
                self._point("kept")
            stored = self._put(row, run, self._spool.result(row.key), min_rows)
            self._point("stored")
        except RepositoryUnreachable as error:
            self._notify(Unstored(row.key, run, str(error)))
        except (FedjobError, EncodeError) as error:
            self._notify(Stored(row.key, run, failure(row.key, error.reason, without_places(error))))
        except Exception as error:  # a thread's exception would go unheard
            self._notify(
                Stored(row.key, run, failure(row.key, "internal", type(error).__name__), message=str(error))
            )
        else:
            self._notify(stored)

    def _put(self, row: TaskRow, run: int, found: WorkResult, min_rows: int) -> Stored:
        if not found.ok and not found.overrun:
            detail = found.detail
            is_mock = task_of(row).use == "mock"  # then nothing in the words can be of private data
            if found.message and (is_mock or self.config.errors == "full"):
                detail = f"{detail}: {found.message}"
            failed = failure(row.key, found.reason or "exception", detail[:8000])
            failed = replace(failed, trace=found.trace[-MAX_TRACE_CHARS:] if is_mock else "")
            return Stored(row.key, run, failed, message=found.message, trace=found.trace)
        if found.num_examples < min_rows:
            ask = f"; ask {self.config.contact}" if self.config.contact else ""
            detail = f"computed on fewer rows than the owner's minimum of {min_rows}{ask}"
            return Stored(row.key, run, failure(row.key, "min_rows", detail))
        kept = self._home.outputs_of(row.job, row.dataset, row.round)
        self._spool.keep_files(row.key, kept, limit_bytes=self.config.result_mb << 20)
        if row.parent:  # its value stays here, for the parent
            done = Result(of="", key=row.key, ok=True, num_examples=found.num_examples, timing=found.timing)
            return Stored(row.key, run, done)
        if len(pack(found.metrics)) > MAX_METRICS_BYTES:
            raise EncodeError(f"a reply's metrics take at most {MAX_METRICS_BYTES} bytes")
        params = self._put_params(row) if found.params_path else None
        value, metrics, blob = found.value, found.metrics, None
        if len(packed := pack({"value": value, "metrics": metrics})) > MAX_INLINE_BYTES:
            if len(packed) > self.config.result_mb << 20:
                raise ObjectTooLarge(f"a result has at most {self.config.result_mb} MB here")
            blob = self.repository.put(packed, job=row.job, readers=[row.researcher])
            value, metrics = None, {}
        state = ""
        if found.state_path:
            state = row.key[:32]  # the same work proposes the same state
            self._spool.keep_state(row.key, row.job, state)
        usage = _usage_of(found)
        used = [{"resource": name, "amount": amount} for name, amount in found.used.items()]
        result = Result(
            of="",
            key=row.key,
            ok=found.ok,
            reason=found.reason,
            detail=found.detail,
            value=value,
            blob=blob,
            params=params,
            weight=found.weight,
            num_examples=found.num_examples,
            metrics=metrics,
            timing=found.timing,
            state=state or None,
            threads=found.threads,
            items=found.items,
            used=capped(used, INFERENCES, usage),
            usage=None if usage is None else list(usage),
        )
        items = read_items(self._home.result_of(row.key)) if found.items_path else None
        return Stored(row.key, run, result, state, report=found.report, items=items)

    def _put_params(self, row: TaskRow) -> Ref:
        path = self._spool.params_of(row.key, limit_bytes=self.config.result_mb << 20)
        ref = self.repository.put(path, job=row.job, readers=[row.researcher])
        if ref.size_bytes >= LARGE_BYTES:
            self._large[row.key] = ref
        return ref

    def _release(self, key: str) -> None:
        self._spool.release(key)
        ref = self._large.pop(key, None)
        if ref is not None:
            with suppress(RepositoryError):  # the job's end removes it too
                self.repository.delete(ref)

    def _fetch(self, ref: Ref, limit_bytes: int) -> None:
        try:
            self._notify(Fetched(ref, self.repository.get_bytes(ref, limit_bytes=limit_bytes)))
        except FedjobError as error:
            self._notify(Fetched(ref, None, error.reason, without_places(error)))
        except Exception as error:  # a thread's exception would go unheard
            self._notify(Fetched(ref, None, "internal", type(error).__name__))

    def _ensure(self, row: TaskRow, message: str) -> None:
        try:
            result = from_plain(Result, unpack(row.result))
            refs = [ref for ref in (result.params, result.blob) if ref is not None]
            if not all(self.repository.exists(ref) for ref in refs) and self._spool.has_result(row.key):
                self._put(row, 0, self._spool.result(row.key), 0)
        except Exception:
            pass  # the researcher finds it missing, and says so
        self._notify(Ensured(message))


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.4g}"


def _usage_of(found: WorkResult) -> Usage | None:
    """Return what of a work's predictions was over a limit; None where nothing was."""
    wanted = found.used.get(INFERENCES, 0)
    return Usage(found.overrun, wanted - found.overrun) if found.overrun else None

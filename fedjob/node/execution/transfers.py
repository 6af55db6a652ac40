"""The transfers of a node: the threads on which tasks' inputs are fetched and their outputs stored.

They wait for the network and the disk; the daemon's loop is notified of their end.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fedjob.common.codec import from_plain, unpack
from fedjob.common.errors import (
    FedjobError,
    NodeFailure,
    OtherContribution,
    RepositoryError,
    RepositoryUnreachable,
)
from fedjob.common.types import Ref
from fedjob.execution.orders import WorkOrder
from fedjob.execution.step_parts import MAX_PARTS_BYTES, read_part
from fedjob.messaging.messages import Result
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.data.brought_data import Brought
from fedjob.node.execution.inputs import Sources, TaskInputs, order_of
from fedjob.node.execution.outputs import Destination, StoredResult, held_of, store, withheld
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.task import failure, failure_words, task_of, without_places
from fedjob.node.storage.spool import VECTOR_NAME, Spool
from fedjob.privacy.protect import is_noised
from fedjob.privacy.secagg.steps import VectorOrder, digest_of, write_masked
from fedjob.repository.base import Repository

log = logging.getLogger(__name__)

T = TypeVar("T")

NUM_THREADS = 4

RETRY_AFTER_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses between attempts to bring a finished result to a repository that does not answer."""

HUB_AGAIN_S = 5.0
HUB_PATIENCE_S = 3600.0
"""How long a task waits for the objects that it needs while the hub does not answer."""


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
class Unstored:
    """The repository does not take a finished result yet."""

    key: str
    run: int
    detail: str


@dataclass(frozen=True, slots=True)
class FetchedBytes:
    """Small bytes that the loop asked for; `data` is None where that failed."""

    ref: Ref
    data: bytes | None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ensured:
    """The objects of an old result are (again) in the repository."""

    message: str


@dataclass(frozen=True, slots=True)
class VectorStored:
    """A masked vector is in the repository; or it could not be made, for a reason.

    Args:
        message: id of the message that asked for it.
    """

    message: str
    ref: Ref | None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ContributionRead:
    """The sha256 of a contribution that is to be masked; nothing of it leaves before that is on the disk.

    Args:
        message: id of the message that asked for it.
    """

    message: str
    digest: str


@dataclass(frozen=True, slots=True)
class PartsFetched:
    """The parts of a step of a secure sum that its message had no room for; None where they can't be had, for a reason.

    Args:
        message: id of the message that names them.
        num_bytes: that were fetched.
    """

    message: str
    parts: dict[str, Any] | None
    num_bytes: int = 0
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _MaskedAhead:
    """A masked vector that lies in a file, while its session is being bound to what was masked."""

    path: Path
    order: VectorOrder
    digest: str

    def fits(self, order: VectorOrder) -> bool:
        """Tell whether it is what an order asks for, bound to what was masked."""
        return order == replace(self.order, contribution=self.digest)


TransferEvent = (
    Prepared
    | Unprepared
    | StoredResult
    | Unstored
    | FetchedBytes
    | Ensured
    | VectorStored
    | ContributionRead
    | PartsFetched
)


class Transfers:
    """The daemon's threads.

    Args:
        config: is replaced when the owner changes it.
        notify: takes a `TransferEvent` on one of these threads; must not block.
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
        notify: Callable[[TransferEvent], None],
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
        self._large: dict[str, tuple[str, Ref]] = {}
        self._masked: dict[str, _MaskedAhead] = {}  # by the id of the message that asked for it
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="run")

    def prepare(self, wanted: TaskInputs) -> None:
        """Fetch what a task needs; ends in `Prepared` or `Unprepared`."""
        self._pool.submit(lambda: self._notify(self.prepared(wanted)))

    def store(self, row: TaskRow, run: int, folder: Path | None, *, min_rows: int) -> None:
        """Make a finished result the task's and put it into the repository; `StoredResult` or `Unstored`.

        Args:
            folder: the worker's; None if the result is in its place already.
            min_rows: a result that was computed from fewer examples never leaves.
        """
        self._pool.submit(self._store, row, run, folder, min_rows)

    def fetch(self, ref: Ref, limit_bytes: int) -> None:
        """Fetch small bytes; ends in `FetchedBytes`."""
        self._pool.submit(self._fetch, ref, limit_bytes)

    def fetch_parts(self, message: str, refs: Mapping[str, Ref]) -> None:
        """Fetch the parts of a step of a secure sum; ends in `PartsFetched`."""
        self._pool.submit(self._fetch_parts, message, refs)

    def ensure(self, row: TaskRow, message: str) -> None:
        """Put an old result's objects where they are missing; ends in `Ensured`."""
        self._pool.submit(self._ensure, row, message)

    def release(self, key: str) -> None:
        """Remove a task's result here and, where it is large, at the hub: the researcher is done with it."""
        self._pool.submit(self._release, key)

    def end_job(self, job: str) -> None:
        """Remove what was brought for a job, and the key by which its results were encrypted."""
        self._pool.submit(self.brought.end_job, job)
        self._pool.submit(self.repository.forget_keys, job)

    def mask(
        self,
        row: TaskRow,
        message: str,
        order: VectorOrder,
        *,
        min_rows: int,
        attached: Mapping[str, bytes],
    ) -> None:
        """Mask the contribution of a finished task and store the vector; ends in `VectorStored`.

        Where the order is bound to no contribution yet, that ends in `ContributionRead`. Without noise the vector is
        ready then, from the same pass over it; it leaves when this is called again, with the order bound, and
        `leave_masked` removes it if it never will.

        Args:
            attached: sha256 -> the bytes of parameters that came with the task.
        """
        self._pool.submit(self._mask, row, message, order, min_rows, attached)

    def leave_masked(self, message: str) -> None:
        """Remove a vector that was masked for a message and is not to leave."""
        self._pool.submit(self._drop_masked, message)

    def later(self, action: Callable[[], None]) -> None:
        """Do something that may wait for the disk and that nobody waits for."""
        self._pool.submit(action)

    def has(self, job: str, ref: Ref) -> bool:
        """Tell whether an object that a job's task names was fetched and is here."""
        return bool(self._spool.here((ref.sha256,))) or self.brought.has(job, ref)

    def stop(self) -> None:
        """Wait for what is being done; start nothing more."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for message in list(self._masked):
            self._drop_masked(message)

    def prepared(self, wanted: TaskInputs) -> Prepared | Unprepared:
        """Fetch what a task needs, now; on the loop only where `is_at_hand` says that nothing is waited for."""
        key, run = wanted.row.key, wanted.run
        try:
            order = self._order_of(wanted)
            self._point("fetched")
        except NodeFailure as failed:
            return Unprepared(key, run, failed.reason, failed.detail)
        except Exception as error:  # nobody would notice an exception of a thread
            return Unprepared(key, run, *failure_words(error))
        return Prepared(key, run, order)

    # --- on a thread ------------------------------------------------------------------------

    def _order_of(self, wanted: TaskInputs) -> WorkOrder:
        """Return a task's order; a hub that is away is asked again, which the task is not to blame for."""
        return self._patiently("a task", lambda: order_of(wanted, self._sources()))

    def _patiently(self, what: str, transfer: Callable[[], T]) -> T:
        """Return what a transfer returns; a hub that is away is asked again."""
        until = time.monotonic() + HUB_PATIENCE_S
        while True:
            try:
                return transfer()
            except RepositoryUnreachable as error:
                if time.monotonic() > until or self._stopping.wait(HUB_AGAIN_S):
                    raise
                log.warning("%s waits for the repository: %s", what, without_places(error))

    def _store(self, row: TaskRow, run: int, folder: Path | None, min_rows: int) -> None:
        try:
            if folder is not None:
                self._spool.finish(row.key, folder)
                self._point("kept")
            stored = self._put(row, run, min_rows)
            self._point("stored")
        except RepositoryUnreachable as error:
            self._notify(Unstored(row.key, run, str(error)))
        except Exception as error:  # nobody would notice an exception of this thread
            failed = failure(row.key, *withheld(row, *failure_words(error)))
            self._notify(StoredResult(row.key, run, failed, message=str(error)))
        else:
            self._notify(stored)

    def _put(self, row: TaskRow, run: int, min_rows: int) -> StoredResult:
        to = Destination(
            home=self._home,
            config=self.config,
            spool=self._spool,
            repository=self.repository,
            large=self._large,
        )
        return store(row, run, self._spool.result(row.key), min_rows, to)

    def _sources(self) -> Sources:
        return Sources(
            home=self._home,
            config=self.config,
            node=self._node,
            spool=self._spool,
            repository=self.repository,
            brought=self.brought,
        )

    def _release(self, key: str) -> None:
        self._spool.release(key)
        found = self._large.pop(key, None)
        others = tuple(self._large.values())  # one of them may have given the same bytes
        if found is not None and found not in others:
            job, ref = found
            with suppress(RepositoryError):  # the job's end removes it too
                self.repository.delete(ref, job=job)

    def _fetch(self, ref: Ref, limit_bytes: int) -> None:
        try:
            self._notify(FetchedBytes(ref, self.repository.get_bytes(ref, limit_bytes=limit_bytes)))
        except Exception as error:  # nobody would notice an exception of this thread
            self._notify(FetchedBytes(ref, None, *failure_words(error)))

    def _fetch_parts(self, message: str, refs: Mapping[str, Ref]) -> None:
        get = partial(self.repository.get_bytes, limit_bytes=MAX_PARTS_BYTES)
        parts: dict[str, Any] = {}
        num_bytes = 0
        try:
            for name, ref in refs.items():
                content = self._patiently("a step of a secure sum", partial(get, ref))
                num_bytes += len(content)
                parts[name] = read_part(content)
        except Exception as error:  # nobody would notice an exception of this thread
            self._notify(PartsFetched(message, None, num_bytes, *failure_words(error)))
        else:
            self._notify(PartsFetched(message, parts, num_bytes))

    def _mask(
        self, row: TaskRow, message: str, order: VectorOrder, min_rows: int, attached: Mapping[str, bytes]
    ) -> None:
        path, stays = self._home.result_of(row.key) / f"{VECTOR_NAME}.{secrets.token_hex(4)}", False
        ahead = self._masked.pop(message, None)
        if ahead is not None and ahead.fits(order):
            path = ahead.path
        elif ahead is not None:
            ahead.path.unlink(missing_ok=True)
        try:
            digest = order.contribution
            if ahead is None or path != ahead.path:
                digest = self._write_vector(path, row, order, min_rows, attached)
            if not order.contribution:
                if stays := path.exists():
                    self._masked[message] = _MaskedAhead(path, order, digest)
                self._notify(ContributionRead(message, digest))
                return
            ref = self._patiently(
                "a masked vector",
                lambda: self.repository.put(path, job=row.job, readers=[row.researcher]),
            )
        except FedjobError as error:
            reason, detail = error.reason, without_places(error)
            if is_noised(task_of(row).protect) and not isinstance(
                error, (RepositoryError, OtherContribution)
            ):
                log.warning("a contribution could not be masked: %s", detail)
                reason, detail = withheld(row, reason, detail)  # it was read without noise
            self._notify(VectorStored(message, None, reason, detail))
        except Exception as error:  # nobody would notice an exception of this thread
            log.exception("a contribution could not be masked")
            self._notify(VectorStored(message, None, *withheld(row, *failure_words(error))))
        else:
            self._notify(VectorStored(message, ref))
        finally:
            if not stays:
                path.unlink(missing_ok=True)

    def _write_vector(
        self, path: Path, row: TaskRow, order: VectorOrder, min_rows: int, attached: Mapping[str, bytes]
    ) -> str:
        """Write the masked vector of a finished task; return the sha256 of all that goes into it.

        Noise and rounding by chance depend on that: where one is asked for and it is not known yet, nothing is written.
        """
        held = held_of(row, min_rows, self._spool, self.config)
        began_with = task_of(row).params.get("params")
        origin = (
            None
            if began_with is None or not order.outline.relative
            else self._spool.fetch(began_with, attached.get(began_with.sha256))
        )
        if order.depends and not order.contribution:
            return digest_of(order, held, origin)
        return write_masked(path, order, held, origin)

    def _drop_masked(self, message: str) -> None:
        ahead = self._masked.pop(message, None)
        if ahead is not None:
            ahead.path.unlink(missing_ok=True)

    def _ensure(self, row: TaskRow, message: str) -> None:
        try:
            result = from_plain(Result, unpack(row.result))
            named = [ref for ref in (result.params, result.blob) if ref is not None]
            refs = [ref for ref in named if ref.sha256 not in result.attached]  # those are in the spool
            if not all(self.repository.exists(ref) for ref in refs) and self._spool.has_result(row.key):
                self._put(row, 0, 0)
        except Exception:
            pass  # the researcher finds it missing, and says so
        self._notify(Ensured(message))

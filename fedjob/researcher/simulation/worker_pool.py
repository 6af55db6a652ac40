"""The pool of worker processes of this machine: forked from one that has imported torch, and replaced when they die.

The process that has imported torch stays for as long as this one, so that only the first job waits for it. A job has a
process of its own, which opens the data once, and forks the workers, which share them.
"""

from __future__ import annotations

import atexit
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import JobFailed
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.researcher.simulation.backend import NodeOutcome, Tell
from fedjob.researcher.simulation.frames import FrameSocket
from fedjob.researcher.simulation.worker_process import request

MAX_TRIES = 3
"""Times that an order is computed whose worker dies: what kills three of them would kill a fourth."""

OPEN_S = 600.0
"""For the data to be opened in."""

LOOK_S = 0.25
"""Time after which a thread that waits for workers can be interrupted: only the main thread is by a signal."""

END_S = 10.0
"""For the first process to end in."""


_ORDER_FIELDS = tuple(entry.name for entry in fields(WorkOrder))


@dataclass(slots=True)
class _PoolWorker:
    frames: FrameSocket
    order: WorkOrder | None = None


class ProcessPool:
    """Worker processes of one job.

    Args:
        num_workers: processes.
        datasets: what the data that nodes share are opened by, each once.
    """

    def __init__(self, num_workers: int, datasets: Sequence[Mapping[str, Any]] = ()) -> None:
        self.num_workers = num_workers
        self._workers: list[_PoolWorker] = []
        self._parent = _FIRST.fork()
        try:
            self._open(datasets)
        except BaseException:
            self.close()
            raise

    def _open(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        if not datasets:
            return
        self._parent.socket.settimeout(OPEN_S)
        try:
            self._parent.send(["open", [dict(info) for info in datasets]])
            answer = self._parent.receive()
        except OSError as error:
            raise _broken(f"the data were not opened in {OPEN_S:.0f} s: {error}") from error
        if answer is None:
            raise _broken("the process that opens the data is gone; is there enough memory for them?")
        self._parent.socket.settimeout(None)

    def compute(self, orders: Iterable[WorkOrder], tell: Tell) -> Iterator[NodeOutcome]:
        waiting, again = iter(orders), deque[WorkOrder]()
        tries: Counter[str] = Counter()
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.frames, selectors.EVENT_READ, worker)
            try:
                while True:
                    self._assign(selector, waiting, again)
                    if not selector.get_map() or not any(worker.order for worker in self._workers):
                        return
                    if not again and (ahead := next(waiting, None)) is not None:
                        again.append(ahead)  # made while all compute: whoever is done first has it at once
                    for key, _ in selector.select(LOOK_S):
                        worker = key.data
                        if (found := self._take(worker, selector, again, tries, tell)) is not None:
                            self._assign(selector, waiting, again)  # it computes while the outcome is read
                            yield found if isinstance(found, NodeOutcome) else from_plain(NodeOutcome, found)
            finally:
                self._give_up_running()

    def _assign(
        self, selector: selectors.BaseSelector, waiting: Iterator[WorkOrder], again: deque[WorkOrder]
    ) -> None:
        """Give every free worker an order, and start workers for as many as may be."""
        while True:
            free = next((worker for worker in self._workers if worker.order is None), None)
            if free is None and len(self._workers) >= self.num_workers:
                return
            order = again.popleft() if again else next(waiting, None)
            if order is None:
                return
            if free is None:
                free = self._new_worker()
                selector.register(free.frames, selectors.EVENT_READ, free)
            free.order = order
            with suppress(OSError):  # it is gone: reading from it says so
                free.frames.send(["work", _plain_order(order)])

    def _new_worker(self) -> _PoolWorker:
        """Start a worker.

        Raises:
            JobFailed: the process that it would be forked from is gone.
        """
        try:
            worker = _PoolWorker(_fork(self._parent))
        except OSError as error:
            raise _broken(
                f"the process that the workers are forked from is gone ({error}); is there enough memory?"
            ) from error
        self._workers.append(worker)
        return worker

    def _take(
        self,
        worker: _PoolWorker,
        selector: selectors.BaseSelector,
        again: deque[WorkOrder],
        tries: Counter[str],
        tell: Tell,
    ) -> NodeOutcome | dict[str, Any] | None:
        """Take one frame of a worker; return the outcome that it brings, as plain data or as it is."""
        try:
            frame = worker.frames.receive()
        except OSError:
            frame = None
        order = worker.order
        if frame is None:
            selector.unregister(worker.frames)
            worker.frames.close()
            self._workers.remove(worker)
            return None if order is None else order_of_dead_worker(order, again, tries)
        match frame:
            case ["events", events] if order is not None:
                for type_, data in events:
                    tell(order.node, order.round, type_, data)
            case ["done", plain]:
                worker.order = None
                return dict(plain)
        return None

    def _give_up_running(self) -> None:
        """End the workers whose orders nobody waits for any more."""
        for worker in [one for one in self._workers if one.order is not None]:
            worker.frames.close()
            self._workers.remove(worker)

    def close(self) -> None:
        for worker in self._workers:
            worker.frames.close()
        self._workers.clear()
        self._parent.close()  # with it, the system ends what it has forked


def _plain_order(order: WorkOrder) -> dict[str, Any]:
    """Return an order as plain data; all but two of its fields are that already."""
    plain = {name: getattr(order, name) for name in _ORDER_FIELDS}
    return {**plain, "items": to_plain(order.items), "models": to_plain(order.models)}


def order_of_dead_worker(
    order: WorkOrder, again: deque[WorkOrder], tries: Counter[str]
) -> NodeOutcome | None:
    """Have an order whose worker died computed again; after too many times return that it failed."""
    tries[order.key] += 1
    if tries[order.key] < MAX_TRIES:
        _empty(order.output_path)
        again.append(order)
        return None
    detail = f"{MAX_TRIES} workers died while they computed it; is there enough memory for so many, or does the plan end its process?"
    return NodeOutcome(
        done=WorkResult(key=order.key, ok=False, reason="worker_died", detail=detail, message=detail)
    )


def _empty(folder: str) -> None:
    """Remove what a worker that died left in the folder of its output."""
    for name in os.listdir(folder):
        with suppress(OSError):
            os.unlink(os.path.join(folder, name))


# -- the process that has imported torch ---------------------------------------------


class _FirstProcess:
    """The process that has imported torch, started when it is first needed, and again where it is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: FrameSocket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._of = 0

    def fork(self) -> FrameSocket:
        """Return the end of a pair whose other end a new child serves.

        Raises:
            JobFailed: no process can be started.
        """
        with self._lock:
            for _ in range(2):
                # a process that was forked from this one, such as a test's, must not share it
                if self._process is None or self._process.poll() is not None or self._of != os.getpid():
                    self._frames, self._process = _start_first()
                    self._of = os.getpid()
                    atexit.register(self.close)
                assert self._frames is not None
                try:
                    return _fork(self._frames)
                except OSError:
                    self._process = None
        raise _broken("no process could be started")

    def close(self) -> None:
        """End it, with all that it has forked."""
        if self._of != os.getpid() or self._frames is None or self._process is None:
            return
        self._frames.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._frames = self._process = None


_FIRST = _FirstProcess()


def _start_first() -> tuple[FrameSocket, subprocess.Popen[bytes]]:
    own, other = socket.socketpair()
    with other:
        command = [
            sys.executable,
            "-P",
            "-m",
            "fedjob.researcher.simulation.worker_process",
            str(other.fileno()),
        ]
        process = subprocess.Popen(
            command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, env=_environment()
        )
    return FrameSocket(own), process


def _environment() -> dict[str, str]:
    """Return this process's environment, with its own search path for modules: a plan's may lie anywhere."""
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _fork(parent: FrameSocket) -> FrameSocket:
    """Have a process fork a child, and return this side's end of its pair."""
    own, other = socket.socketpair()
    with other:
        try:
            socket.send_fds(parent.socket, [request(["fork"])], [other.fileno()])
        except OSError:
            own.close()
            raise
    return FrameSocket(own)


def _broken(why: str) -> JobFailed:
    return JobFailed(f"the simulation can't go on: {why}", reason="worker_died")

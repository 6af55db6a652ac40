"""The backend that computes the work of nodes on a Ray cluster: the one that runs, or one of this machine.

Orders name files, so that every machine of a cluster must see the job's folder and the data at the same paths, as on a shared
disk. Each actor computes one order after another with one thread, as a worker process does, and gives the same bytes.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import MissingPackage, SpecError
from fedjob.execution.allocator import keep_freed_memory
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.researcher.simulation.backend import NodeOutcome, Tell
from fedjob.researcher.simulation.worker_pool import LOOK_S, order_of_dead_worker

ADDRESS = "RAY_ADDRESS"
"""Environment variable of Ray's own that names a cluster: `host:port`, `ray://host:port`, or `auto`."""

_BREAKPOINT = "PYTHONBREAKPOINT"
"""Environment variable of Python's own that says what `breakpoint()` calls; Ray sets it when it is joined."""

REACH_S = 10.0
"""For the cluster that is named to take a connection in."""

PLACE_S = 180.0
"""For workers to be placed and to have imported torch in; those that are not by then are done without."""

MAX_STARTS = 2
"""Times that a cluster of this machine is started: Ray gives its own processes 15 s, which a busy machine exceeds."""

_NO_RAY = "simulate(backend='ray') needs Ray: pip install 'fedjob[ray]'"

_log = logging.getLogger("fedjob")


class RayCluster:
    """Actors of a Ray cluster.

    Args:
        workers: actors; None for one per core of the cluster.
        num_nodes: of the job: more actors than nodes would have nothing to do.
        paths: of the data, which every machine must see.

    Raises:
        SpecError: the cluster is away or has no room, or machines of it do not see the data.
        MissingPackage: Ray is not installed.
    """

    def __init__(self, workers: int | None, num_nodes: int, paths: Sequence[str] = ()) -> None:
        self._ray = _ray()
        self._actors: list[Any] = []
        self._breakpoint = os.environ.get(_BREAKPOINT)
        self._started = _connect(self._ray, workers)
        try:
            self._make = self._ray.remote(num_cpus=1)(RayWorker)
            self._place(self._wanted(workers, num_nodes), list(paths))
        except BaseException:
            self.close()
            raise
        self.num_workers = len(self._actors)

    def _wanted(self, workers: int | None, num_nodes: int) -> int:
        cores = int(self._ray.cluster_resources().get("CPU", 0))
        if cores < (workers or 1):
            raise SpecError(
                f"simulate(workers={workers}, backend='ray') needs a core of the cluster for each worker; it has {cores}: "
                "take fewer, or None for one worker per core"
            )
        return max(1, min(workers or cores, num_nodes))

    def _place(self, wanted: int, paths: list[str]) -> None:
        """Start workers, and keep those that are there in time.

        Raises:
            SpecError: none is, or one does not see the data.
        """
        self._actors = [self._new_actor() for _ in range(wanted)]
        asked = {actor.unseen.remote(paths): actor for actor in self._actors}
        ready, late = self._ray.wait(list(asked), num_returns=wanted, timeout=PLACE_S)
        for answer in late:
            self._end(asked[answer])
        if not ready:
            raise SpecError(
                f"no worker began on the Ray cluster in {PLACE_S:.0f} s: are its cores in use by others? See `ray status`"
            )
        if late:
            _log.warning("%d of %d workers began on the Ray cluster; the job has these", len(ready), wanted)
        for answer in ready:
            try:
                host, unseen = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:
                raise SpecError(
                    f"a worker of the Ray cluster could not begin: {_last_line(error)}. Every machine of it needs fedjob "
                    "and torch, in the versions of this one"
                ) from error
            if unseen:
                raise SpecError(_not_seen(host, unseen[0]))

    def compute(self, orders: Iterable[WorkOrder], tell: Tell) -> Iterator[NodeOutcome]:
        waiting, again = iter(orders), deque[WorkOrder]()
        tries: Counter[str] = Counter()
        running: dict[Any, tuple[Any, WorkOrder]] = {}
        free = list(self._actors)
        try:
            while True:
                while free or len(self._actors) < self.num_workers:
                    order = again.popleft() if again else next(waiting, None)
                    if order is None:
                        break
                    if not free:
                        self._actors.append(self._new_actor())
                        free.append(self._actors[-1])
                    actor = free.pop()
                    running[actor.compute.remote(to_plain(order))] = (actor, order)
                if not running:
                    return
                done, _ = self._ray.wait(list(running), num_returns=1, timeout=LOOK_S)
                if not done:
                    continue
                actor, order = running.pop(done[0])
                try:
                    events, plain = self._ray.get(done[0])
                except self._ray.exceptions.RayError as error:
                    _log.warning("a worker of the Ray cluster died: %s", _last_line(error))
                    self._end(actor)
                    if (failed := order_of_dead_worker(order, again, tries)) is not None:
                        yield failed
                    continue
                free.append(actor)
                for type_, data in events:
                    tell(order.node, order.round, type_, data)
                yield from_plain(NodeOutcome, plain)
        finally:
            for actor, _ in running.values():  # nobody waits for these any more
                self._end(actor)

    def close(self) -> None:
        for actor in list(self._actors):
            self._end(actor)
        if self._started:
            self._ray.shutdown()
            self._started = False
            _give_back_breakpoint(self._breakpoint)

    def _new_actor(self) -> Any:
        return self._make.remote([path for path in sys.path if path])

    def _end(self, actor: Any) -> None:
        self._ray.kill(actor)
        self._actors.remove(actor)


class RayWorker:
    """The actor that computes orders.

    Args:
        paths: of the driver's modules, which a plan may import.
    """

    def __init__(self, paths: list[str]) -> None:
        import torch

        from fedjob.researcher.simulation.node_work import NodeWork

        sys.path += [path for path in paths if path not in sys.path]
        torch.set_num_threads(1)
        keep_freed_memory()
        self._work = NodeWork()

    def unseen(self, paths: list[str]) -> tuple[str, list[str]]:
        """Return this machine's name, and the paths that it does not see."""
        return socket.gethostname(), [path for path in paths if not os.path.exists(path)]

    def compute(self, plain: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the events of an order's work, and its outcome, as plain data."""
        order = from_plain(WorkOrder, plain)
        if not os.path.isdir(order.output_path):
            detail = _not_seen(socket.gethostname(), order.output_path)
            done = WorkResult(key=order.key, ok=False, reason="worker_died", detail=detail, message=detail)
            return [], to_plain(NodeOutcome(done=done))
        events: list[Any] = []
        outcome = self._work.compute(order, events.extend)
        return events, to_plain(outcome)


def is_on_this_machine() -> bool:
    """Tell whether a cluster of this machine is started: this process has joined none, and the environment names none."""
    ray = sys.modules.get("ray")
    joined = ray is not None and ray.is_initialized()
    return not joined and os.environ.get(ADDRESS, "") in ("", "local")


def check_there() -> None:
    """Refuse a cluster that is away, without joining it.

    Raises:
        SpecError: the one that the environment names takes no connection.
        MissingPackage: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise MissingPackage(_NO_RAY)
    ray = sys.modules.get("ray")
    if is_on_this_machine() or (ray is not None and ray.is_initialized()):
        return
    address = os.environ[ADDRESS]
    try:
        _reach(address)
    except (OSError, ValueError, OverflowError) as error:  # those of no such name, and of no such port, too
        raise _away(address, error) from error


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
    except ImportError as error:
        raise MissingPackage(_NO_RAY) from error
    return ray


def _connect(ray: Any, workers: int | None) -> bool:
    """Join the cluster that this process has joined or that `RAY_ADDRESS` names, or start one; return whether to leave it.

    Raises:
        SpecError: it is away, or can't be started.
    """
    if ray.is_initialized():
        return False
    ends = signal.getsignal(signal.SIGTERM)
    try:
        if is_on_this_machine():
            _start(ray, workers or len(os.sched_getaffinity(0)))
        else:
            _join(ray, os.environ[ADDRESS])
    finally:
        if threading.current_thread() is threading.main_thread() and ends is not None:
            signal.signal(signal.SIGTERM, ends)  # Ray takes the signal for itself
    return True


def _join(ray: Any, address: str) -> None:
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and more
        raise _away(address, error) from error


def _reach(address: str) -> None:
    """Connect to a cluster once, where its address says how: Ray itself would try for a minute, and write much about it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


def _away(address: str, error: Exception) -> SpecError:
    return SpecError(
        f"the Ray cluster at {address} ({ADDRESS}) is away: {_last_line(error)}. Start it, name another, or unset "
        f"{ADDRESS} for one of this machine"
    )


def _start(ray: Any, cores: int) -> None:
    for tries_left in reversed(range(MAX_STARTS)):
        before = _children()
        try:
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="CRITICAL",
            )
            return
        except Exception as error:  # Ray raises Exception itself where it does not start
            _end_started(_children() - before, Path(ray.__file__).parent)
            if not tries_left:
                raise SpecError(
                    f"no Ray cluster could be started on this machine: {_last_line(error)}. Its log is in "
                    "/tmp/ray/session_latest/logs/raylet.out. On a busy machine try again later, start one by "
                    f"`ray start --head` and name it in {ADDRESS}, or leave backend='ray' out"
                ) from error
            _log.warning("Ray did not start, and is started once more: %s", _last_line(error))


def _give_back_breakpoint(before: str | None) -> None:
    """Have `breakpoint()` call what it called before Ray was joined, if it is Ray's debugger now."""
    if not os.environ.get(_BREAKPOINT, "").startswith("ray."):
        return
    if before is None:
        del os.environ[_BREAKPOINT]
    else:
        os.environ[_BREAKPOINT] = before


def _children() -> set[int]:
    """Return the ids of this process's children; empty where the system does not list them."""
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended meanwhile
            found |= {int(pid) for pid in listed.read_text(encoding="ascii").split()}
    return found


def _end_started(pids: set[int], package: Path) -> None:
    """End those of these processes that run a program of Ray: what is left of a cluster that did not start."""
    for pid in pids:
        with suppress(OSError):
            if os.fsencode(package) in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def _not_seen(host: str, path: str) -> str:
    return f"{host} of the Ray cluster does not see {path}: every machine needs it at the same path, as on a shared disk"


def _last_line(error: Exception) -> str:
    """Return the last line of an error, which has its cause where it has a traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:300].rstrip(".")

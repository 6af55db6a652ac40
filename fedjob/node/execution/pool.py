"""The daemon's side of its workers: warm processes, each of one identity, forked by a fork server.

`run` hands a work order to an idle worker of the identity, `kill` ends one with everything
it started. Events come back through `notify`, which is called on this module's
own threads. Deaths are learned from the fork server, so that a worker whose
children keep its socket open is noticed too.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import MAX_ELEMENTS, from_plain, pack, to_plain
from fedjob.common.errors import DecodeError, FedjobError
from fedjob.common.files import remove_folder
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.config.options import read_options
from fedjob.node.execution.fork_client import DEATH_GRACE_S, ForkServer
from fedjob.node.execution.fork_server import ForkRequest
from fedjob.node.execution.launcher import LAUNCHERS, Launch, Launcher, hints_for
from fedjob.node.execution.link import Link
from fedjob.node.execution.output_pipes import OutputPipes
from fedjob.node.execution.preload import lacking_libraries
from fedjob.node.execution.release_desk import RECORD_NAME, ReleaseDesk
from fedjob.node.execution.worker_events import (
    ChildAwaited,
    ChildRequested,
    WorkerBegan,
    WorkerDied,
    WorkerEmitted,
    WorkerEvent,
    WorkerGone,
    WorkerOverran,
    WorkerReturned,
    WorkerUnclosed,
)
from fedjob.node.execution.worker_handle import (
    WorkerHandle,
    kill_group,
    lend_record,
    take_record,
    take_returned,
)
from fedjob.node.execution.worker_place import WorkerIdentity, enclosure_for, move_inputs, read_elsewhere
from fedjob.node.sandbox.enclosure import CONTAINER, NONE, OUTPUT_NAME, SCRATCH_NAME, Enclosure
from fedjob.node.sandbox.memory_use import memory_of
from fedjob.node.sandbox.support import REFUSED, SandboxSupport
from fedjob.training_plans.child_tasks import ChildOrder

MAX_EVENT_BYTES = 16 * 1024
ASKED_AT_MOST = 4000
"""How often one task may ask for child tasks, or for what came of them."""
MAX_LAUNCHED_BYTES = 256 << 20
"""Of the orders of one task's child tasks together, which the node keeps."""

log = logging.getLogger(__name__)


class Workers:
    """The worker processes of one daemon.

    Args:
        support: the sandboxes that this machine allows.
        notify: takes a `WorkerEvent`; must not block.
    """

    def __init__(
        self,
        home: NodeHome,
        config: NodeConfig,
        support: SandboxSupport,
        notify: Callable[[WorkerEvent], None],
    ) -> None:
        self.config = config
        self.support = support
        self._home = home
        self._notify = notify
        self._lock = threading.RLock()
        self._servers: dict[
            tuple[str, bool], ForkServer
        ] = {}  # by kind, and whether it runs launchers' commands
        self._workers: dict[str, WorkerHandle] = {}  # by name, the ones that can be given work
        self._dying: dict[str, WorkerHandle] = {}  # by name, until nothing is left of them
        self._number = 0
        self._idle_since = time.monotonic()
        self._desk = ReleaseDesk()

    @property
    def kind(self) -> str:
        """The kind of sandbox in force: see `SandboxSupport`."""
        return self.support.in_force(self.config.sandbox)

    @property
    def sandbox(self) -> str:
        """What is told of the sandbox: its kind, or the name of a launcher that has one of its own."""
        return _sandbox_of(self.config.launcher, self.kind)

    def warm_up(self) -> None:
        """Start the fork server, if it does not run: importing torch takes a second or two."""
        if self.kind != REFUSED and not lacking_libraries(self.config.launcher):
            self._server(self.kind, bare=False)

    def _server(self, kind: str, *, bare: bool) -> ForkServer:
        with self._lock:
            self._idle_since = time.monotonic()
            server = self._servers.get((kind, bare))
            if server is None or not server.alive:
                server = self._servers[kind, bare] = ForkServer(
                    self._home, kind, bare=bare, on_exited=self._exited, on_gone=self._server_gone
                )
            return server

    def run(
        self,
        order: WorkOrder,
        number: int,
        identity: WorkerIdentity,
        *,
        resources: Mapping[str, Any] | None = None,
        takes_small: bool = False,
    ) -> WorkerBegan | None:
        """Give an order to an idle worker of its identity, which is forked if there is none.

        Args:
            order: its paths are those of the node; what the attempt's folder has in `inbox` is moved to the worker.
            number: tells this attempt from earlier ones at the same task; events carry it.
            resources: what the job asked for; its launcher's hints are among it.
            takes_small: a small output is reported as it is, and no files are made of it; see `take_small`.

        Returns:
            That it began; None where that is reported once the worker is up.
        """
        with self._lock:
            idle = [w for w in self._workers.values() if not w.key]
            for worker in idle:
                if identity.replaces(worker.identity):
                    self._drop(worker)
            fitting = [w for w in idle if w.identity == identity]
            worker = fitting[0] if fitting else self._fork(order, identity, resources or {})
            worker.key, worker.run, worker.used = order.key, number, time.monotonic()
            worker.folder = Path(order.output_path)
            worker.place, worker.record = worker.folder.name, order.releases_path
            worker.takes_small = takes_small
            worker.asked = worker.launched_bytes = 0
            pid = worker.pid if worker.is_up else None
        worker.pipes.lead_to(order.key)
        try:
            inside = move_inputs(order, worker.enclosure, worker.place)
            work = worker.enclosure.work
            output = f"{work}/{OUTPUT_NAME}/{worker.place}"
            order = replace(
                inside,
                output_path=output,
                scratch_path=f"{work}/{SCRATCH_NAME}",
                releases_path=f"{output}/{RECORD_NAME}" if worker.record else "",
            )
            worker.link.send(to_plain(order))
        except (OSError, FedjobError) as error:
            self._lost(worker, f"the worker took no order: {error}")
            return None
        return None if pid is None else WorkerBegan(order.key, number, pid)

    def kill(self, key: str) -> bool:
        """End the worker that works on this task; of the task nothing but `WorkerGone` follows.

        Returns:
            Whether there is such a worker.
        """
        with self._lock:
            for worker in list(self._workers.values()):
                if worker.key == key:
                    worker.mourned, worker.key = key, ""
                    self._drop(worker)
                    return True
        return False

    def send(self, key: str, message: list[Any]) -> None:
        """Send a message to the worker that works on this task, if there is one."""
        with self._lock:
            worker = next((w for w in self._workers.values() if w.key == key), None)
        if worker is not None:
            try:
                worker.link.send(message)
            except (OSError, FedjobError) as error:
                self._lost(worker, f"the worker took no message: {error}")

    def end_job(self, job: str) -> None:
        """End a job's idle workers."""
        with self._lock:
            for worker in list(self._workers.values()):
                if worker.identity.job == job and not worker.key:
                    self._drop(worker)

    def end_idle(self, may_stay: Callable[[WorkerIdentity], bool] = lambda identity: False) -> None:
        """End at once the idle workers that may not stay.

        Args:
            may_stay: asked about the identity of each.
        """
        with self._lock:
            for worker in list(self._workers.values()):
                if not worker.key and not may_stay(worker.identity):
                    self._drop(worker)

    def tidy(self) -> None:
        """Evict idle workers over the caps or unused for long, then the fork server; bound the logs."""
        now = time.monotonic()
        with self._lock:
            idle = sorted((w for w in self._workers.values() if not w.key), key=lambda w: w.used)
            for worker in evicted(idle, self.config, now):
                self._drop(worker)
            if self._workers:
                self._idle_since = now
            elif self._servers and now - self._idle_since > self.config.warm_s:
                self._stop_servers()

    def look_at_memory(self) -> None:
        """Report workers that hold too much memory, with all that they started; the limit of each process is the kernel's."""
        with self._lock:
            busy = {w.pid: (w.key, w.run) for w in self._workers.values() if w.pid and w.key}
        limit = self.config.worker_memory_bytes
        most = limit + limit // 4  # a process alone may come close to it
        for pid, held in memory_of(busy, over=most).items():
            if held > most:
                detail = (
                    f"its processes held {held >> 20} MB together; a worker may have {limit >> 20} MB here"
                )
                self._notify(WorkerOverran(*busy[pid], detail))

    def facts(self) -> dict[str, Any]:
        """Return what `fedjob node status` shows."""
        with self._lock:
            return {
                "sandbox": self.sandbox,
                "sandbox_advice": self.support.advice if self.kind == REFUSED else "",
                "fork_server": any(server.alive for server in self._servers.values()),
                "warm": [worker.facts() for worker in self._workers.values()],
            }

    def stop(self) -> None:
        """End every worker and the fork servers."""
        with self._lock:
            for worker in list(self._workers.values()):
                worker.key = ""
                self._drop(worker)
        self._stop_servers()

    # --- inside ------------------------------------------------------------------------------

    def _stop_servers(self) -> None:
        with self._lock:
            servers, self._servers = self._servers, {}
        for server in servers.values():
            server.stop()

    def _fork(self, order: WorkOrder, identity: WorkerIdentity, resources: Mapping[str, Any]) -> WorkerHandle:
        self._number += 1
        name = f"{os.getpid()}-{self._number}"
        config = self.config
        launcher = LAUNCHERS.build(config.launcher, {})
        kind = CONTAINER if launcher.isolates else self.kind
        enclosure = enclosure_for(self._home, config, kind, f"worker_{name}", order.dataset, identity)
        hints = hints_for(config.launcher, resources, config.launcher_options)
        read_first = list(read_elsewhere(order.dataset))
        request = _request(launcher, config, name, identity, enclosure, hints, read_first)
        bare = bool(request.command)
        server = self._server(NONE if bare and not launcher.isolates else kind, bare=bare)
        ours, theirs = socket.socketpair()
        link, pipes = Link(ours, max_elements=MAX_ELEMENTS), OutputPipes(self._home, 2 * config.log_kb << 10)
        link.expect_greeting()
        worker = WorkerHandle(name, identity, enclosure, link, pipes, server)
        self._workers[name] = worker
        server.request(request, [theirs.fileno(), *pipes.writing])
        theirs.close()
        pipes.start()
        if request.command:
            link.send(["close", to_plain(enclosure)])
        threading.Thread(target=self._listen, args=(worker,), name=f"worker {name}", daemon=True).start()
        return worker

    def _listen(self, worker: WorkerHandle) -> None:
        """Take a worker's messages until its end."""
        detail = "the worker ended"
        try:
            self._greet(worker, *worker.link.receive_greeting())
            while True:
                self._take(worker, worker.link.receive())
        except EOFError:
            pass
        except FedjobError as error:
            worker.fault = f"the worker sent something odd: {error}"
        except Exception as error:  # nobody would notice an exception of this thread
            if not worker.doomed:  # of one that was ended the folder may have gone meanwhile
                log.exception("what a worker sent could not be taken")
            worker.fault = f"what the worker sent could not be taken: {type(error).__name__}"
        self._desk.take_back(worker.name)
        self._lost(worker, detail)
        worker.link.close()
        if worker.output is not None:
            os.close(worker.output)
        remove_folder(Path(worker.enclosure.folder))

    def _greet(self, worker: WorkerHandle, message: Any, pid: int, output: int | None) -> None:
        """Take a worker's first message, which it sent before any code of others could run in it."""
        match message:
            case ["up"] if output is not None:
                with self._lock:
                    worker.pid, worker.output, worker.is_up = pid, output, True
                    if worker.doomed:
                        worker.kill()
                    if worker.doomed or not worker.key:
                        return
                self._notify(WorkerBegan(worker.key, worker.run, pid))
            case ["unclosed", str(detail)]:
                with self._lock:
                    key, worker.key = worker.key, ""
                    silent = worker.doomed
                    self._drop(worker)
                if key and not silent:
                    self._notify(WorkerUnclosed(key, worker.run, detail))
            case _:
                raise DecodeError("no greeting")

    def _take(self, worker: WorkerHandle, message: Any) -> None:
        match message:
            case ["borrow"] if worker.key:
                worker.link.send(["lent", lend_record(worker, self._desk)])
                return
            case ["return"] if worker.key:
                take_record(worker, self._desk)
                worker.link.send(["recorded"])
                return
            case ["event", str(type_), dict(data)]:
                if not worker.events.take(time.monotonic()) or len(pack(data)) > MAX_EVENT_BYTES:
                    return  # fedjob's half of a worker sends less
                event: WorkerEvent = WorkerEmitted(worker.key, worker.run, type_[:64], data)
            case ["launch" | "wait", _] if worker.asked >= ASKED_AT_MOST:
                raise DecodeError(f"it asked for child tasks more than {ASKED_AT_MOST} times")
            case ["launch", dict(wanted)]:
                worker.asked += 1
                worker.launched_bytes += len(pack(wanted))
                if worker.launched_bytes > MAX_LAUNCHED_BYTES:
                    raise DecodeError(
                        f"the arguments of its child tasks take more than {MAX_LAUNCHED_BYTES >> 20} MB"
                    )
                event = ChildRequested(worker.key, worker.run, from_plain(ChildOrder, wanted))
            case ["wait", int(number)]:
                worker.asked += 1
                event = ChildAwaited(worker.key, worker.run, number)
            case ["result", dict(plain)]:
                result = from_plain(WorkResult, plain)
                event = take_returned(worker, result, self._desk, self.config.result_mb << 20)
            case _:
                raise DecodeError("neither an event nor a result")
        with self._lock:
            if worker.doomed or not worker.key:
                return
            if isinstance(event, WorkerReturned):
                worker.key, worker.used = "", time.monotonic()
        self._notify(event)

    def _drop(self, worker: WorkerHandle) -> None:
        if self._workers.pop(worker.name, None) is not None and worker.exit_status is None:
            self._dying[worker.name] = worker
        worker.kill()
        worker.link.shut()
        self._idle_since = time.monotonic()

    def _lost(self, worker: WorkerHandle, detail: str) -> None:
        """Drop a worker that is gone or does not answer; report its death if it was working."""
        if worker.fault:
            worker.end()  # it may go on for as long as it likes
        deadline = time.monotonic() + DEATH_GRACE_S
        while worker.exit_status is None and not worker.doomed and time.monotonic() < deadline:
            time.sleep(0.01)  # its end of the socket closes a moment before the fork server has reaped it
        with self._lock:
            key, worker.key = worker.key, ""
            silent = worker.doomed
            self._drop(worker)
        if key and not silent:
            self._notify(WorkerDied(key, worker.run, worker.fault or _describe(worker.exit_status, detail)))

    def _exited(self, name: str, status: int) -> None:
        with self._lock:
            worker = self._workers.get(name) or self._dying.get(name)
            if worker is not None:
                worker.exit_status = status
                worker.link.shut()  # wakes its listener, which reads first what had been said
                self._bury(worker)

    def _server_gone(self, server: ForkServer) -> None:
        with self._lock:
            for worker in [*self._workers.values(), *self._dying.values()]:
                if worker.server is not server:
                    continue
                if worker.exit_status is None:
                    worker.exit_status = -signal.SIGKILL
                if worker.pid:
                    kill_group(worker.pid)
                worker.link.shut()
                self._bury(worker)

    def _bury(self, worker: WorkerHandle) -> None:
        self._dying.pop(worker.name, None)
        mourned, worker.mourned = worker.mourned, ""
        if mourned:
            self._notify(WorkerGone(mourned, worker.run))


def _sandbox_of(launcher: str, kind: str) -> str:
    try:
        isolates = LAUNCHERS.find(launcher).isolates
    except Exception:  # a launcher is somebody else's code, and starts nothing then
        isolates = False
    if not isolates:
        return kind
    return CONTAINER if launcher == CONTAINER else f"launcher {launcher}"


def _request(
    launcher: Launcher,
    config: NodeConfig,
    name: str,
    identity: WorkerIdentity,
    enclosure: Enclosure,
    hints: Mapping[str, Any],
    read_first: list[dict[str, Any]],
) -> ForkRequest:
    """Return what a fork server is asked for, as the launcher wants it."""
    launch = Launch(
        worker=name,
        job=identity.job,
        memory_bytes=config.worker_memory_bytes,
        threads=config.torch_threads,
        gpus=identity.gpus,
        hints=hints,
        options=read_options(config.launcher_options),
        folder=enclosure.folder,
        data=enclosure.data,
        work_bytes=enclosure.work_bytes,
        processes=enclosure.processes,
    )
    return ForkRequest(
        worker=name,
        enclosure=enclosure,
        log_bytes=config.log_kb << 10,
        memory_bytes=launch.memory_bytes,
        threads=launch.threads,
        gpus=",".join(map(str, identity.gpus)),
        command=launcher.command(launch),
        interpreter=launcher.interpreter(launch),
        meeting_place=launcher.meeting_place(launch),
        ending=launcher.ending(launch),
        read_first=read_first,
    )


def evicted(idle: Sequence[WorkerHandle], config: NodeConfig, now: float) -> list[WorkerHandle]:
    """Return which idle workers are too many, hold too much memory together, or were not used for long.

    Args:
        idle: the longest unused first.
        now: on the monotonic clock.
    """
    sizes = {worker.name: resident_bytes(worker.pid) for worker in idle}
    found = []
    for worker in idle:
        old = now - worker.used > config.warm_s
        if old or len(sizes) > config.warm_workers or sum(sizes.values()) > config.warm_memory_bytes:
            del sizes[worker.name]
            found.append(worker)
    return found


def resident_bytes(pid: int | None) -> int:
    """Return the private memory that a process holds; 0 if it is gone."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _describe(status: int | None, detail: str) -> str:
    if status is None:
        return detail
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process exited with status {status}"

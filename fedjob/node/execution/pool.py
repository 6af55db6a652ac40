"""The daemon's side of its workers: warm processes, each for one job, forked by a fork server.

`run` hands a work order to an idle worker of the job, `kill` ends one with everything
it started. Events come back through `notify`, which is called on this module's
own threads. Deaths are learned from the fork server, so that a worker whose
children keep its socket open is noticed too.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError, FedjobError
from fedjob.common.files import make_folder, private, remove_folder
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.execution.fork_server import MAX_PACKET_BYTES, ForkRequest
from fedjob.node.execution.launcher import LAUNCHERS, Launch, hints_for
from fedjob.node.execution.link import Link
from fedjob.node.storage.logs import STREAMS, cut
from fedjob.training_plans.child_tasks import ChildOrder

DEATH_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class WorkerBegan:
    """A worker process is up and has the task; from here on its time counts."""

    key: str
    run: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class WorkerEmitted:
    """The plan, or the protocol, emitted an event."""

    key: str
    run: int
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerReturned:
    """The worker is through; its output folder is complete and durable."""

    key: str
    run: int
    result: WorkResult


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker ended without a result; `detail` says how."""

    key: str
    run: int
    detail: str


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """Nothing is left of the worker that worked on this task when it was killed."""

    key: str
    run: int


@dataclass(frozen=True, slots=True)
class ChildRequested:
    """The plan launches a child."""

    key: str
    run: int
    order: ChildOrder


@dataclass(frozen=True, slots=True)
class ChildAwaited:
    """The plan waits for the child of that number."""

    key: str
    run: int
    number: int


WorkerEvent = (
    WorkerBegan | WorkerEmitted | WorkerReturned | WorkerDied | WorkerGone | ChildRequested | ChildAwaited
)


class _Worker:
    """One process; its fields are guarded by the lock of `Workers`."""

    def __init__(self, name: str, job: str, gpus: tuple[int, ...], link: Link, scratch: Path) -> None:
        self.name = name
        self.job = job
        self.gpus = gpus
        self.link = link
        self.scratch = scratch
        self.pid: int | None = None
        self.key = ""  # of the task it works on
        self.run = 0
        self.is_up = False
        self.used = time.monotonic()
        self.doomed = False  # killed, or about to be: its messages are ignored from here on
        self.mourned = ""  # the task whose end waits for this worker's
        self.exit_status: int | None = None

    def kill(self) -> None:
        self.doomed = True
        if self.pid is not None:
            kill_group(self.pid)


class Workers:
    """The worker processes of one daemon.

    Args:
        notify: takes a `WorkerEvent`; must not block.
    """

    def __init__(self, home: NodeHome, config: NodeConfig, notify: Callable[[WorkerEvent], None]) -> None:
        self.config = config
        self._home = home
        self._notify = notify
        self._lock = threading.RLock()
        self._server: _ForkServer | None = None
        self._workers: dict[str, _Worker] = {}  # by name, the ones that can be given work
        self._dying: dict[str, _Worker] = {}  # by name, until nothing is left of them
        self._number = 0
        self._idle_since = time.monotonic()

    def warm_up(self) -> None:
        """Start the fork server, if it does not run: importing torch takes a second or two."""
        with self._lock:
            self._idle_since = time.monotonic()
            if self._server is None or not self._server.alive:
                self._server = _ForkServer(self._home, self._forked, self._exited, self._server_gone)

    def run(
        self,
        order: WorkOrder,
        number: int,
        *,
        gpus: tuple[int, ...] = (),
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        """Give an order to an idle worker of its job, which is forked if there is none; `WorkerBegan` follows.

        Args:
            number: tells this attempt from earlier ones at the same task; events carry it.
            gpus: the devices that the job holds.
            resources: what the job asked for; its launcher's hints are among it.
        """
        with self._lock:
            idle = [w for w in self._workers.values() if w.job == order.job and not w.key]
            for worker in idle:
                if worker.gpus != gpus:
                    self._drop(worker)
            fitting = [w for w in idle if w.gpus == gpus]
            worker = fitting[0] if fitting else self._fork(order.job, gpus, resources or {})
            worker.key, worker.run, worker.used = order.key, number, time.monotonic()
            plain = to_plain(order)
            plain["scratch_path"] = str(worker.scratch)
            plain["log_paths"] = {s: str(self._home.log_of(order.key, s)) for s in STREAMS}
            pid = worker.pid if worker.is_up else None
        try:
            worker.link.send(plain)
        except (OSError, FedjobError) as error:
            self._lost(worker, f"the worker took no order: {error}")
        else:
            if pid is not None:
                self._notify(WorkerBegan(order.key, number, pid))

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
                if worker.job == job and not worker.key:
                    self._drop(worker)

    def tidy(self) -> None:
        """Evict idle workers over the caps or unused for long, then the fork server; bound the logs."""
        now = time.monotonic()
        with self._lock:
            idle = sorted((w for w in self._workers.values() if not w.key), key=lambda w: w.used)
            sizes = {worker.name: resident_bytes(worker.pid) for worker in idle}
            for worker in idle:
                count, size = len(sizes), sum(sizes.values())
                old = now - worker.used > self.config.warm_s
                if old or count > self.config.warm_workers or size > self.config.warm_memory_bytes:
                    del sizes[worker.name]
                    self._drop(worker)
            if self._workers:
                self._idle_since = now
            elif self._server is not None and now - self._idle_since > self.config.warm_s:
                self._server.stop()
                self._server = None
            keys = [worker.key for worker in self._workers.values() if worker.key]
        for key in keys:
            for stream in STREAMS:
                cut(self._home.log_of(key, stream), 2 * self.config.log_kb << 10)

    def facts(self) -> dict[str, Any]:
        """Return what `fedjob node status` shows."""
        with self._lock:
            return {
                "fork_server": self._server is not None and self._server.alive,
                "warm": [
                    {
                        "job": w.job,
                        "pid": w.pid or 0,
                        "busy": bool(w.key),
                        "task": w.key,
                        "gpus": list(w.gpus),
                    }
                    for w in self._workers.values()
                ],
            }

    def stop(self) -> None:
        """End every worker and the fork server."""
        with self._lock:
            for worker in list(self._workers.values()):
                worker.key = ""
                self._drop(worker)
            server, self._server = self._server, None
        if server is not None:
            server.stop()

    # --- inside ------------------------------------------------------------------------------

    def _fork(self, job: str, gpus: tuple[int, ...], resources: Mapping[str, Any]) -> _Worker:
        self.warm_up()
        assert self._server is not None
        self._number += 1
        name = f"{os.getpid()}-{self._number}"
        config = self.config
        launch = Launch(
            worker=name,
            job=job,
            memory_bytes=config.worker_memory_bytes,
            threads=config.torch_threads,
            gpus=gpus,
            hints=hints_for(config.launcher, resources, config.launcher_options),
        )
        request = ForkRequest(
            worker=name,
            log_bytes=config.log_kb << 10,
            memory_bytes=launch.memory_bytes,
            threads=launch.threads,
            gpus=",".join(map(str, gpus)),
            command=LAUNCHERS.build(config.launcher, {}).command(launch),
        )
        scratch = self._home.scratch_of(f"worker_{name}")
        make_folder(scratch)
        ours, theirs = socket.socketpair()
        worker = _Worker(name, job, gpus, Link(ours), scratch)
        self._workers[name] = worker
        self._server.request(request, theirs)
        theirs.close()
        threading.Thread(target=self._listen, args=(worker,), name=f"worker {name}", daemon=True).start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        """Take a worker's messages until its end."""
        detail = "the worker ended"
        try:
            while True:
                self._take(worker, worker.link.receive())
        except EOFError:
            pass
        except FedjobError as error:
            detail = f"the worker sent something odd: {error}"
        self._lost(worker, detail)
        worker.link.close()
        remove_folder(worker.scratch)

    def _take(self, worker: _Worker, message: Any) -> None:
        match message:
            case ["up"]:
                worker.is_up = True
                deadline = time.monotonic() + DEATH_GRACE_S
                while worker.pid is None and not worker.doomed and time.monotonic() < deadline:
                    time.sleep(0.002)  # it may be up before the fork server has told its number
                event: WorkerEvent = WorkerBegan(worker.key, worker.run, worker.pid or 0)
            case ["event", str(type_), dict(data)]:
                event = WorkerEmitted(worker.key, worker.run, type_, data)
            case ["launch", dict(wanted)]:
                event = ChildRequested(worker.key, worker.run, from_plain(ChildOrder, wanted))
            case ["wait", int(number)]:
                event = ChildAwaited(worker.key, worker.run, number)
            case ["result", dict(plain)]:
                event = WorkerReturned(worker.key, worker.run, from_plain(WorkResult, plain))
            case _:
                raise DecodeError("neither an event nor a result")
        with self._lock:
            if worker.doomed or not worker.key:
                return
            if isinstance(event, WorkerReturned):
                if event.result.key != worker.key:
                    raise DecodeError("a result of another task")
                worker.key, worker.used = "", time.monotonic()
        self._notify(event)

    def _drop(self, worker: _Worker) -> None:
        if self._workers.pop(worker.name, None) is not None and worker.exit_status is None:
            self._dying[worker.name] = worker
        worker.kill()
        worker.link.shut()
        self._idle_since = time.monotonic()

    def _lost(self, worker: _Worker, detail: str) -> None:
        """Drop a worker that is gone or does not answer; report its death if it was working."""
        deadline = time.monotonic() + DEATH_GRACE_S
        while worker.exit_status is None and not worker.doomed and time.monotonic() < deadline:
            time.sleep(0.01)  # its end of the socket closes a moment before the fork server has reaped it
        with self._lock:
            key, worker.key = worker.key, ""
            silent = worker.doomed
            self._drop(worker)
        if key and not silent:
            self._notify(WorkerDied(key, worker.run, _describe(worker.exit_status, detail)))

    def _forked(self, name: str, pid: int) -> None:
        with self._lock:
            worker = self._workers.get(name) or self._dying.get(name)
            if worker is not None:
                worker.pid = pid
            if worker is None or worker.doomed:
                kill_group(pid)  # no longer wanted

    def _exited(self, pid: int, status: int) -> None:
        with self._lock:
            for worker in [*self._workers.values(), *self._dying.values()]:
                if worker.pid == pid:
                    worker.exit_status = status
                    worker.link.shut()  # wakes its listener, which reads first what had been said
                    self._bury(worker)

    def _server_gone(self) -> None:
        with self._lock:
            for worker in [*self._workers.values(), *self._dying.values()]:
                if worker.exit_status is None:
                    worker.exit_status = -signal.SIGKILL
                if worker.pid is not None:
                    kill_group(worker.pid)
                worker.link.shut()
                self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        self._dying.pop(worker.name, None)
        mourned, worker.mourned = worker.mourned, ""
        if mourned:
            self._notify(WorkerGone(mourned, worker.run))


class _ForkServer:
    """The fork server's process, and the thread that receives its messages."""

    def __init__(
        self,
        home: NodeHome,
        on_forked: Callable[[str, int], None],
        on_exited: Callable[[int, int], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._on_forked, self._on_exited, self._on_gone = on_forked, on_exited, on_gone
        self.alive = True
        self._is_ready = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(home.logs / "forkserver.log", "ab", opener=private) as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedjob.node.execution.fork_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=home.root,
                env={**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
            )
        threading.Thread(target=self._listen, name="fork server", daemon=True).start()

    def request(self, request: ForkRequest, end: socket.socket) -> None:
        with suppress(OSError):  # it is gone: its listener says so
            socket.send_fds(self._control, [pack(to_plain(request))], [end.fileno()])

    def stop(self) -> None:
        """Close our end, at which it ends, and wait for that."""
        self.alive = False
        if not self._is_ready:
            self._process.kill()  # still importing: it has no children, and would not hear us for seconds
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(timeout=DEATH_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=DEATH_GRACE_S)

    def _listen(self) -> None:
        while True:
            try:
                packet = self._control.recv(MAX_PACKET_BYTES)
            except OSError:
                break
            if not packet:
                break
            match unpack(packet):
                case ["ready"]:
                    self._is_ready = True
                case ["forked", str(name), int(pid)]:
                    self._on_forked(name, pid)
                case ["exited", int(pid), int(status)]:
                    self._on_exited(pid, status)
        self.alive = False
        self._on_gone()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=DEATH_GRACE_S)
        self._control.close()


def kill_group(pid: int) -> None:
    """End a worker and everything in its process group; whoever is gone already is gone."""
    for kill in (os.killpg, os.kill):  # it may not lead its group yet
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


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

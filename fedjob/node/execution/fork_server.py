"""The fork server: a process that has imported torch once and forks workers in milliseconds.

Run as `python -P -m fedjob.node.execution.fork_server FD KIND HOME HOW`, where FD is one end of a
SOCK_SEQPACKET pair, KIND the sandbox that workers are closed in and HOME the node's, of which they see nothing. A
request is one packet, a msgpack map (see `ForkRequest`), with the worker's socket and its two streams attached, or
`["kill", worker]`. Answers are `["exited", worker, status]` and, once, `["ready"]`. HOW is `preloaded`, or `bare`
for one that only runs launchers' commands.

It has one thread, and runs no user code: it stays outside of the sandboxes that it closes. With namespaces, it and
all its workers live in one of processes, so that all end when it does, and each worker is the first process of one of
its own: with it ends everything that it started. Otherwise a child gets SIGKILL when it dies, and the process group
of each child is killed when the daemon's end of the pair closes; what user code has left behind comes to the fork
server, as the nearest subreaper, and is killed. A worker has exited when that is done.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.codec import from_plain, pack, unpack
from fedjob.node.execution.link import Link
from fedjob.node.execution.preload import preload
from fedjob.node.sandbox.enclosure import CONTAINER, LANDLOCK, NAMESPACES, NONE, Enclosure
from fedjob.node.sandbox.limits import server_environment
from fedjob.node.sandbox.namespaces import enter_server_namespaces, fork_first_process
from fedjob.node.sandbox.seccomp import program
from fedjob.node.sandbox.syscalls import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, prctl
from fedjob.node.sandbox.system_files import system_paths

MAX_PACKET_BYTES = 64 * 1024
STRAYS_WITHIN_S = 2.0
"""For orphans to end in, when the fork server itself ends."""

LINK_NUMBER = 3
"""The descriptor of its link that a launcher's command inherits, and passes on."""

ENDING_WITHIN_S = 10.0
"""For the command that ends what a launcher's command has started elsewhere."""

_WITHIN = "import subprocess, sys; subprocess.run(sys.argv[2:], timeout=float(sys.argv[1]), check=False)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRequest:
    """A worker to fork.

    Args:
        worker: the daemon's name for it.
        enclosure: its sandbox.
        log_bytes: of user code's output, per task and stream.
        memory_bytes: that it may allocate.
        threads: of torch.
        gpus: the devices that it may see, as CUDA numbers them.
        read_first: datasets whose rows are read before the sandbox is closed, because a database elsewhere has them.
        command: run this, with the worker behind it, where a launcher wants that.
        interpreter: in the worker's own command line.
        meeting_place: where such a worker gets its link; empty where it inherits it.
        ending: a command that ends what `command` has started elsewhere.
    """

    worker: str
    enclosure: Enclosure
    log_bytes: int
    memory_bytes: int
    threads: int
    gpus: str = ""
    command: list[str] = field(default_factory=list)
    interpreter: str = ""
    meeting_place: str = ""
    ending: list[str] = field(default_factory=list)
    read_first: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _ServerState:
    """The fork server's own state.

    Args:
        control: its end of the pair.
        kind: of the sandbox.
        own: descriptor of its namespace of processes; None without.
        system: files of the machine that workers may read.
        wake: the two ends of what SIGCHLD wakes it by.
        children: process id -> the daemon's name for the worker.
        ended: names and statuses that wait until all is gone.
        endings: worker -> the command that ends what it has started elsewhere.
        ending: process id of such a command -> its worker and the worker's status.
    """

    control: socket.socket
    kind: str
    own: int | None
    system: tuple[str, ...]
    wake: tuple[socket.socket, socket.socket]
    children: dict[int, str] = field(default_factory=dict)
    ended: list[tuple[str, int]] = field(default_factory=list)
    endings: dict[str, list[str]] = field(default_factory=dict)
    ending: dict[int, tuple[str, int]] = field(default_factory=dict)

    @property
    def adopts(self) -> bool:
        """Orphans come to this process and are killed; an engine of containers has some that are its own."""
        return self.own is None and self.kind != CONTAINER


def main(arguments: list[str]) -> None:
    """Preload, then serve until the daemon is gone."""
    control, (kind, hidden, how) = socket.socket(fileno=int(arguments[0])), arguments[1:]
    own = None
    if kind == NAMESPACES and how != "bare":
        enter_server_namespaces()
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to act on
    if kind != CONTAINER:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    if how != "bare":
        preload()
    system = system_paths(hidden)
    if kind != NONE:
        program(os.uname().machine, alone=kind == LANDLOCK, devices=False, process=0)  # which is remembered
    control.send(pack(["ready"]))
    _serve(_ServerState(control, kind, own, system, socket.socketpair()))


def _serve(server: _ServerState) -> None:
    woken, waker = server.wake
    woken.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    with selectors.DefaultSelector() as selector:
        selector.register(server.control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    with suppress(BlockingIOError):
                        woken.recv(4096)
                elif not _take_request(server, selector):
                    _end(server)
                    return
            _reap(server)


def _take_request(server: _ServerState, selector: selectors.BaseSelector) -> bool:
    try:
        packet, descriptors, _, _ = socket.recv_fds(server.control, MAX_PACKET_BYTES, 3)
    except ConnectionError:
        return False
    if not packet:
        return False
    wanted = unpack(packet)
    if isinstance(wanted, list):
        _kill(server, wanted[1])
        return True
    request = from_plain(ForkRequest, wanted)
    parent = os.getpid()
    try:
        pid = os.fork() if server.own is None else fork_first_process(server.own)
    except OSError as error:
        _refuse(server, request, descriptors, f"no process could be started: {error}")
        return True
    if pid == 0:
        try:
            _become_worker(request, descriptors, parent, server, selector)
        finally:
            os._exit(70)
    server.children[pid] = request.worker
    if request.ending:
        server.endings[request.worker] = request.ending
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def _refuse(server: _ServerState, request: ForkRequest, descriptors: list[int], detail: str) -> None:
    """Answer in the place of a worker that could not be started."""
    link = Link(socket.socket(fileno=descriptors[0]))
    with suppress(OSError):
        link.send(["unclosed", detail])
    link.close()
    for descriptor in descriptors[1:]:
        os.close(descriptor)
    with suppress(OSError):
        server.control.send(pack(["exited", request.worker, 70]))


def _kill(server: _ServerState, worker: object) -> None:
    for pid, name in server.children.items():
        if name == worker:
            for kill in (os.killpg, os.kill):
                with suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)


def _become_worker(
    request: ForkRequest,
    descriptors: list[int],
    parent: int,
    server: _ServerState,
    selector: selectors.BaseSelector,
) -> None:
    os.setsid()
    if server.own is None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the signal was armed
            os._exit(71)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for closable in (selector, *server.wake, server.control):
        closable.close()
    end, *streams = descriptors
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.environ["CUDA_VISIBLE_DEVICES"] = request.gpus
    numbers = (request.log_bytes, request.memory_bytes, request.threads)
    if request.command:
        _run_command(request, end, numbers)
    from fedjob.node.execution.process import run_closed

    for info in request.read_first:
        from fedjob.data.readers.sql import hold

        hold(info)
    run_closed(socket.socket(fileno=end), request.enclosure, server.system, *numbers)
    os._exit(0)


def _run_command(request: ForkRequest, end: int, numbers: tuple[int, ...]) -> None:
    """Become a launcher's command, with the worker's own command line behind it."""
    if end != LINK_NUMBER:
        os.dup2(end, LINK_NUMBER)
    os.set_inheritable(LINK_NUMBER, True)
    if request.enclosure.kind not in (CONTAINER, NONE):  # an engine of containers passes on none of it
        kept = server_environment(os.environ)
        os.environ.clear()
        os.environ.update(kept)
    place = request.meeting_place or str(LINK_NUMBER)
    worker = (request.interpreter, "-P", "-m", "fedjob.node.execution.process", place, *map(str, numbers))
    with suppress(OSError):
        os.execvp(request.command[0], [*request.command, *worker])
    os._exit(72)


def _reap(server: _ServerState) -> None:
    """Take what has ended, kill the strays, and report ended workers once there are none."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        if pid in server.children:
            name = server.children.pop(pid)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what it left behind in its group
            _conclude(server, name, os.waitstatus_to_exitcode(status))
        elif pid in server.ending:
            server.ended.append(server.ending.pop(pid))
    # With namespaces the kernel has ended all that a worker started before it reports its end.
    if server.ended and not (server.adopts and _kill_strays(set(server.children))):
        for name, code in server.ended:
            with suppress(OSError):
                server.control.send(pack(["exited", name, code]))
        server.ended.clear()


def _conclude(server: _ServerState, name: str, status: int) -> None:
    """Report a worker's end, or first end what it has started elsewhere."""
    words = server.endings.pop(name, [])
    pid = _start_ending(words) if words else 0
    if pid:
        server.ending[pid] = (name, status)
    else:
        server.ended.append((name, status))


def _start_ending(words: list[str]) -> int:
    """Start a command that ends something, with a deadline of its own; return its number, 0 where it can't be run."""
    nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    timed = [sys.executable, "-I", "-c", _WITHIN, str(ENDING_WITHIN_S), *words]
    try:
        return os.posix_spawn(timed[0], timed, os.environ, file_actions=nothing)
    except OSError:
        return 0


def _kill_strays(children: set[int]) -> bool:
    """Kill every child that is no worker; tell whether there was one. Their deaths wake the server."""
    strays = [pid for pid in _children_of(os.getpid()) if pid not in children]
    for pid in strays:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(strays)


def _children_of(parent: int) -> list[int]:
    """Return a single-threaded process's children, those that have ended and wait to be reaped excepted."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                with open(f"/proc/{entry.name}/stat", encoding="utf-8", errors="replace") as file:
                    state, ppid = file.read().rpartition(")")[2].split()[:2]
            except (OSError, ValueError):
                continue  # it ended meanwhile
            if int(ppid) == parent and state != "Z":
                found.append(int(entry.name))
    return found


def _end(server: _ServerState) -> None:
    for pid in server.children:
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
    for words in server.endings.values():
        if pid := _start_ending(words):
            server.ending[pid] = ("", 0)
    deadline = time.monotonic() + (ENDING_WITHIN_S if server.ending else STRAYS_WITHIN_S)
    while time.monotonic() < deadline:
        with suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                server.ending.pop(pid, None)
        if os.getpid() == 1 or not (server.ending or (server.adopts and _kill_strays(set()))):
            return  # the first process of a namespace takes all others with it
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # tidying up after torch takes half a second, and there is nothing to tidy

"""The fork server: a process that has imported torch once and forks workers in milliseconds.

Run as `python -m fedjob.node.execution.fork_server FD`, where FD is one end of a
SOCK_SEQPACKET pair. A request is one packet, a msgpack map (see `ForkRequest`), with
the worker's socket attached. Answers are `["forked", worker, pid]`,
`["exited", pid, status]` and, once, `["ready"]`.

It has one thread, and a child gets SIGKILL when it dies. When the daemon dies, its
end of the pair closes: the fork server kills the process group of each child, so
that what user code started goes too, and ends.

User code may leave its worker's group and outlive its parents. The kernel then gives
such orphans to the fork server, their nearest subreaper: every child of it that is
no worker is one, and is killed. A worker has exited when that is done.
"""

from __future__ import annotations

import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module

from fedjob.common.codec import from_plain, pack, unpack

MAX_PACKET_BYTES = 64 * 1024
PRELOAD = (
    "torch",
    "numpy",
    "safetensors.torch",
    "fedjob.execution.workbench",
    "fedjob.parameters.files",
    "fedjob.parameters.tree",
    "fedjob.protocols.training.fedavg",
    "fedjob.execution.batches",
    "fedjob.training_plans.source.compilation",
    "fedjob.training_plans.base",
    "fedjob.training_plans.torch",
    "fedjob.training_plans.training_args",
    "fedjob.metrics.states",
    "fedjob.data.loader",
    "fedjob.node.execution.process",
)
PRELOAD_IF_THERE = (
    "torch._dynamo",  # the first optimizer of a process imports it, in more than a second
    "pandas",
)
STRAYS_WITHIN_S = 2.0
"""For orphans to end in, when the fork server itself ends."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRequest:
    """A worker to fork.

    Args:
        worker: the daemon's name for it.
        log_bytes: of user code's output, per task and stream.
        memory_bytes: that it may allocate.
        threads: of torch.
        gpus: the devices that it may see, as CUDA numbers them.
        command: run this, with the worker behind it, where a launcher wants that.
    """

    worker: str
    log_bytes: int
    memory_bytes: int
    threads: int
    gpus: str = ""
    command: list[str] = field(default_factory=list)


def main(arguments: list[str]) -> None:
    """Preload, then serve until the daemon is gone."""
    control = socket.socket(fileno=int(arguments[0]))
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to act on
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    gc.disable()  # imports leave next to no garbage, and looking for it takes as long as a third of them
    for module in PRELOAD:
        import_module(module)
    for module in PRELOAD_IF_THERE:
        with suppress(ImportError):
            import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it marks
    gc.enable()
    control.send(pack(["ready"]))
    _serve(control)


def _serve(control: socket.socket) -> None:
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    children: set[int] = set()
    ended: list[tuple[int, int]] = []
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    with suppress(BlockingIOError):
                        woken.recv(4096)
                elif not _take_request(control, children, (selector, woken, waker)):
                    _end(children)
                    return
            _reap(control, children, ended)


def _take_request(
    control: socket.socket,
    children: set[int],
    mine: tuple[selectors.BaseSelector, socket.socket, socket.socket],
) -> bool:
    try:
        packet, descriptors, _, _ = socket.recv_fds(control, MAX_PACKET_BYTES, 1)
    except ConnectionError:
        return False
    if not packet:
        return False
    request = from_plain(ForkRequest, unpack(packet))
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become_worker(request, descriptors[0], parent, control, mine)
        finally:
            os._exit(70)
    children.add(pid)
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(OSError):
        control.send(pack(["forked", request.worker, pid]))
    return True


def _become_worker(
    request: ForkRequest,
    descriptor: int,
    parent: int,
    control: socket.socket,
    mine: tuple[selectors.BaseSelector, socket.socket, socket.socket],
) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the signal was armed
        os._exit(71)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for closable in (*mine, control):
        closable.close()
    os.environ["CUDA_VISIBLE_DEVICES"] = request.gpus
    numbers = (request.log_bytes, request.memory_bytes, request.threads)
    if request.command:
        os.set_inheritable(descriptor, True)
        worker = (sys.executable, "-m", "fedjob.node.execution.process", str(descriptor), *map(str, numbers))
        with suppress(OSError):
            os.execvp(request.command[0], [*request.command, *worker])
        os._exit(72)
    from fedjob.node.execution.process import run

    run(socket.socket(fileno=descriptor), *numbers)
    os._exit(0)


def _reap(control: socket.socket, children: set[int], ended: list[tuple[int, int]]) -> None:
    """Take what has ended, kill the strays, and report ended workers once there are none."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        if pid in children:
            children.discard(pid)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what it left behind in its group
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    if ended and not _kill_strays(children):
        for pid, code in ended:
            with suppress(OSError):
                control.send(pack(["exited", pid, code]))
        ended.clear()


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


def _end(children: set[int]) -> None:
    for pid in children:
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + STRAYS_WITHIN_S
    while time.monotonic() < deadline:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not _kill_strays(set()):
            return
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # tidying up after torch takes half a second, and there is nothing to tidy

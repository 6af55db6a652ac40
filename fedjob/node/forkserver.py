"""A process that has imported torch once and forks a worker in milliseconds whenever it is told to.

Run as `python -m fedjob.node.forkserver FD`, where FD is one end of a
SOCK_SEQPACKET pair. A request is one packet, a msgpack map (see `Request`), with
the worker's socket attached. Answers are `["forked", worker, pid]`,
`["exited", pid, status]` and, once, `["ready"]`.

It has one thread, and a child gets SIGKILL when it dies. When the daemon dies, its
end of the pair closes: the fork server kills the process group of each child, so
that what user code started goes too, and ends.
"""

from __future__ import annotations

import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

from fedjob.common.codec import from_plain, pack, unpack

MAX_PACKET_BYTES = 64 * 1024
PRELOAD = (
    "torch",
    "numpy",
    "safetensors.torch",
    "fedjob.common.work",
    "fedjob.common.params",
    "fedjob.common.tree",
    "fedjob.common.protocols.fedavg",
    "fedjob.common.protocols.run",
    "fedjob.common.plans.source",
    "fedjob.common.plans.base",
    "fedjob.common.plans.torch",
    "fedjob.common.plans.args",
    "fedjob.common.metrics",
    "fedjob.common.readers",
    "fedjob.node.workerprocess",
)
PRELOAD_IF_THERE = (
    "torch._dynamo",  # the first optimizer of a process imports it, in more than a second
    "pandas",
)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A worker to fork.

    Args:
        worker: the daemon's name for it.
        log_path, log_bytes: where user code's output goes, and how much of it.
        memory_bytes: that it may allocate.
        threads: of torch.
    """

    worker: str
    log_path: str
    log_bytes: int
    memory_bytes: int
    threads: int


def main(arguments: list[str]) -> None:
    """Preload, then serve until the daemon is gone."""
    control = socket.socket(fileno=int(arguments[0]))
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to act on
    for module in PRELOAD:
        import_module(module)
    for module in PRELOAD_IF_THERE:
        with suppress(ImportError):
            import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it marks
    control.send(pack(["ready"]))
    _serve(control)


def _serve(control: socket.socket) -> None:
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    children: set[int] = set()
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
            _reap(control, children)


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
    request = from_plain(Request, unpack(packet))
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
    request: Request,
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
    from fedjob.node.workerprocess import run

    run(
        socket.socket(fileno=descriptor),
        log_path=request.log_path,
        log_bytes=request.log_bytes,
        memory_bytes=request.memory_bytes,
        threads=request.threads,
    )
    os._exit(0)


def _reap(control: socket.socket, children: set[int]) -> None:
    while children:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        children.discard(pid)
        with suppress(OSError):
            control.send(pack(["exited", pid, os.waitstatus_to_exitcode(status)]))


def _end(children: set[int]) -> None:
    for pid in children:
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # tidying up after torch takes half a second, and there is nothing to tidy

"""The processes of a simulation: one that has imported torch forks one for each job, and that its workers.

Run as `python -P -m fedjob.researcher.simulation.worker_process FD`, where FD is one end of a pair of sockets. Every
process of the tree serves its own socket until the other end is closed, or the process that forked it is gone:

    ["fork"], with a descriptor    a child is forked, which serves that
    ["open", [info, ...]]          data sets are opened, which the children then have in common
    ["work", order]                answered by ["events", ...] and ["done", outcome]
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import struct
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.execution.allocator import keep_freed_memory
from fedjob.researcher.simulation.frames import FrameSocket

PRELOAD = (
    "torch",
    "numpy",
    "safetensors.torch",
    "fedjob.execution.workbench",
    "fedjob.execution.batches",
    "fedjob.execution.released_work",
    "fedjob.parameters.files",
    "fedjob.parameters.tree",
    "fedjob.protocols.training.fedavg",
    "fedjob.training_plans.source.compilation",
    "fedjob.training_plans.torch",
    "fedjob.training_plans.step_plan",
    "fedjob.metrics.states",
    "fedjob.data.loader",
    "fedjob.data.item_choice",
    "fedjob.data.row_limit",
    "fedjob.data.readers.npy",
    "fedjob.researcher.simulation.node_work",
)
PRELOAD_IF_THERE = ("torch._dynamo", "pandas")
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Preload, then serve until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to act on
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that have ended leave nothing behind
    end = socket.socket(fileno=int(arguments[0]))
    keep_freed_memory()
    gc.disable()
    for module in PRELOAD:
        import_module(module)
    for module in PRELOAD_IF_THERE:
        with suppress(ImportError):
            import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it marks
    gc.enable()
    _TreeProcess(end).serve()


class _TreeProcess:
    """A process of the tree, with its end of a pair of sockets."""

    def __init__(self, end: socket.socket) -> None:
        self._frames = FrameSocket(end)
        self._work: Any = None

    def serve(self) -> None:
        """Do what is asked until the other end is closed."""
        while True:
            try:
                wanted, descriptors = self._receive()
            except OSError:
                return
            if wanted is None:
                return
            match wanted:
                case ["fork"]:
                    self._fork(descriptors[0])
                case ["open", infos]:
                    self._answer(_open(infos))
                case ["work", order]:
                    self._compute(order)

    def _receive(self) -> tuple[Any, list[int]]:
        """Return the next request with the descriptors that came along; None at the end."""
        head, descriptors, _, _ = socket.recv_fds(self._frames.socket, 4, 1)
        while 0 < len(head) < 4:
            more = self._frames.socket.recv(4 - len(head))
            head = head + more if more else b""
        if not head:
            return None, []
        body = self._frames._read(struct.unpack("<I", head)[0])
        return (None if body is None else unpack(bytes(body))), list(descriptors)

    def _fork(self, descriptor: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(descriptor)
            return
        status = 70
        try:
            _end_with(parent)
            self._frames.close()
            self._frames = FrameSocket(socket.socket(fileno=descriptor))
            self._work = None
            self.serve()
            status = 0
        finally:
            os._exit(status)

    def _compute(self, plain: Any) -> None:
        import torch

        from fedjob.execution.orders import WorkOrder
        from fedjob.researcher.simulation.node_work import NodeWork

        if self._work is None:
            torch.set_num_threads(1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._work = NodeWork()
        order = from_plain(WorkOrder, plain)
        outcome = self._work.compute(order, lambda events: self._answer(["events", list(events)]))
        self._answer(["done", to_plain(outcome)])

    def _answer(self, value: Any) -> None:
        try:
            self._frames.send(value)
        except OSError:  # the driver is gone
            os._exit(0)


def _open(infos: list[dict[str, Any]]) -> list[Any]:
    """Open data sets and read their tables, for the children to have; return what failed."""
    from fedjob.data.loader import open_whole

    problems = []
    for info in infos:
        try:
            open_whole(info)
        except Exception as error:  # of somebody's file: the work on it says it again
            problems.append(f"{type(error).__name__}: {error}"[:500])
    return ["opened", problems]


def _end_with(parent: int) -> None:
    """Have this process killed when the one that started it is gone, where the system can do that."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the signal was armed
        os._exit(71)


def request(value: Any) -> bytes:
    """Return a request as it travels."""
    data = pack(value)
    return struct.pack("<I", len(data)) + data


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # tidying up after torch takes half a second, and there is nothing to tidy

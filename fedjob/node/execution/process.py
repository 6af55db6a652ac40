"""The program of a worker process: it takes work orders, performs each and sends back its result.

It was forked from the fork server, leads its own session, and closes its sandbox before it reads anything; after that
it knows nothing but the paths that its orders name. What user code writes to standard output and to standard error,
be it from C or from a child process, goes to two pipes that the daemon reads; what it raises, `SystemExit`
included, becomes a result.

Run as `python -P -m fedjob.node.execution.process LINK LOG_BYTES MEMORY_BYTES THREADS` where a launcher wants a
command: then the first message names the sandbox that it closes around itself.
"""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import MAX_ELEMENTS, from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError, EncodeError, FedjobError, NodeFailure
from fedjob.common.files import remove_folder
from fedjob.execution.allocator import keep_freed_memory
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.execution.workbench import Workbench
from fedjob.messaging.token_bucket import TokenBucket
from fedjob.node.execution.link import Link, received_link
from fedjob.node.execution.preload import preload
from fedjob.node.sandbox.closing import close_sandbox
from fedjob.node.sandbox.enclosure import NAMESPACES, Enclosure
from fedjob.node.sandbox.namespaces import end_as, enter_server_namespaces
from fedjob.node.sandbox.syscalls import PR_SET_PDEATHSIG, prctl
from fedjob.node.sandbox.system_files import system_paths
from fedjob.node.storage.secrets import hide, holds_secret
from fedjob.training_plans.child_tasks import ChildOrder, ChildOutcome, ChildRunner

MAX_RESULT_BYTES = 200 << 20
MAX_EVENT_BYTES = 16 * 1024
EVENTS_PER_S = 20.0
EVENTS_AT_ONCE = 40.0
PROGRESS_EVERY_S = 0.25


def run_closed(
    end: socket.socket,
    enclosure: Enclosure,
    system: Iterable[str],
    log_bytes: int,
    memory_bytes: int,
    threads: int,
) -> None:
    """Close the sandbox, then serve one daemon until it closes its end.

    Args:
        system: files of the machine that the worker may read.
        log_bytes: that Python code may write, per task and stream.
        memory_bytes: that it may allocate.
        threads: of torch.
    """
    link = Link(end)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    os.dup2(sys.stdin.fileno(), 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        output = close_sandbox(enclosure, system, (end.fileno(), sys.stdin.fileno()))
    except (OSError, KeyError) as error:
        link.send(["unclosed", str(error)])
        return
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    link.greet(["up"], output)
    os.close(output)
    _serve(link, log_bytes, threads)


def _serve(link: Link, log_bytes: int, threads: int) -> None:
    import torch

    keep_freed_memory()
    bench = Workbench(RecordBorrower(link))
    streams = (os.dup(1), os.dup(2))
    while True:
        try:
            plain = link.receive()
        except EOFError:
            return
        if isinstance(plain, list):  # ["taken", folder]: the daemon has what was in it
            remove_folder(Path(plain[1]))
            continue
        order = from_plain(WorkOrder, plain)
        _redirect_output(streams, log_bytes)
        torch.set_num_threads(threads)  # anew for each: user code may have changed it
        os.makedirs(order.output_path, mode=0o700)
        result = _perform(bench, order, link)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        link.send(["result", result])


def _perform(bench: Workbench, order: WorkOrder, link: Link) -> dict[str, Any]:
    hidden = list(order.secrets.values())
    try:
        result = bench.perform(order, EventValve(link, hidden), WorkerChildRunner(link))
    except BaseException as error:  # SystemExit and the like: the plan is over, not the node
        result = WorkResult(
            key=order.key,
            ok=False,
            reason="exception",
            detail=type(error).__name__,
            message=f"{type(error).__name__}: {error}"[:4000],
            trace=traceback.format_exc()[-20_000:],
        )
    if hidden:
        words: dict[str, Any] = {
            name: hide(getattr(result, name), hidden) for name in ("detail", "message", "trace", "report")
        }
        result = replace(result, **words)
    plain: dict[str, Any] = to_plain(result)
    try:
        packed = pack(plain)
        if holds_secret(packed, hidden):
            raise NodeFailure(
                order.node, "secret", "what the plan returned holds a secret of the node's owner"
            )
        if len(packed) > MAX_RESULT_BYTES:
            raise EncodeError(
                f"a value takes at most {MAX_RESULT_BYTES >> 20} MB, this one {len(packed) >> 20}"
            )
        _check_number(packed)
    except FedjobError as error:
        plain = to_plain(WorkResult(key=order.key, ok=False, reason=error.reason, detail=str(error)[:1000]))
        packed = pack(plain)
    return plain


def _check_number(packed: bytes) -> None:
    """Check that a value has no more parts than its receivers read."""
    if len(packed) > MAX_ELEMENTS:  # each takes a byte or more
        try:
            unpack(packed, max_elements=MAX_ELEMENTS)
        except DecodeError as error:
            raise EncodeError(
                f"what the plan returned has too many parts: give numbers as arrays, not as lists ({error})"
            ) from error


class EventValve:
    """Lets through what a plan emits, but no flood: a bucket of tokens, progress at most 4 times a second.

    Args:
        hidden: the secrets that the plan may use; an event that holds one is dropped.
        clock: seconds.
    """

    def __init__(
        self, link: Link, hidden: Sequence[str] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = link
        self._hidden = hidden
        self._clock = clock
        self._bucket = TokenBucket(EVENTS_PER_S, EVENTS_AT_ONCE, EVENTS_AT_ONCE, clock())
        self._progressed = self._bucket.at  # a task that is done before its first quarter second just answers

    def __call__(self, type_: str, data: dict[str, Any]) -> None:
        now = self._clock()
        if _must_pass(type_, data):
            time.sleep(self._bucket.wait_s(now))
            now = self._clock()
        if type_ == "progress":
            if now - self._progressed < PROGRESS_EVERY_S:
                return
            self._progressed = now
        if self._bucket.level(now) < 1.0:
            return
        packed = pack(data)  # what is no plain data raises, in the plan's own line
        if len(packed) > MAX_EVENT_BYTES or holds_secret(packed + type_.encode(), self._hidden):
            return
        self._bucket.take(now)
        self._link.send(["event", str(type_)[:64], data])


def _must_pass(type_: str, data: dict[str, Any]) -> bool:
    """True if an event waits for its turn rather than be dropped, as the count and outcome of batches does."""
    return type_ == "batch" and ("n" not in data or bool(data.get("last")))


class WorkerChildRunner(ChildRunner):
    """Children as tasks of the daemon's queue."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._outcomes: dict[int, ChildOutcome] = {}

    def launch(self, order: ChildOrder) -> None:
        self._link.send(["launch", to_plain(order)])

    def wait(self, number: int) -> ChildOutcome:
        if number not in self._outcomes:
            self._link.send(["wait", number])
            while number not in self._outcomes:
                answer = self._link.receive()
                outcome = from_plain(ChildOutcome, answer[1])
                self._outcomes[outcome.number] = outcome
        return self._outcomes[number]


class RecordBorrower:
    """Borrows the record of what was released about the dataset, which the daemon lends to one task at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @contextmanager
    def __call__(self, path: str) -> Iterator[None]:
        """Ask for the record, wait for it, and put it to this path; give back at the end what lies there then.

        It is given back before the numbers leave that it was asked for, and long before the task ends.
        """
        self._link.send(["borrow"])
        lent = self._link.receive()[1]
        if lent:
            shutil.copyfile(lent, path)
        try:
            yield
        finally:
            self._link.send(["return"])
            self._link.receive()


class BoundedLog(io.TextIOBase):
    """A text stream that writes the first so many bytes, then says that it stopped, then drops."""

    def __init__(self, descriptor: int, left_bytes: int) -> None:
        self._descriptor = descriptor
        self._left_bytes = left_bytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str, /) -> int:
        if self._left_bytes > 0:
            data = text[: self._left_bytes].encode("utf-8", "replace")
            self._left_bytes -= len(data)
            if self._left_bytes <= 0:
                data += b"\n[the limit of this log is reached; the rest is dropped]\n"
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        return len(text)


def _redirect_output(streams: Sequence[int], limit_bytes: int) -> None:
    """Let both streams, and their file descriptors, lead to the daemon, whatever the last plan did to them."""
    for kept, number, name in zip(streams, (1, 2), ("stdout", "stderr"), strict=True):
        with suppress(OSError):
            os.dup2(kept, number)
        # What C code or a child process writes goes past this limit: the daemon has one of its own.
        setattr(sys, name, BoundedLog(number, limit_bytes))


def main(arguments: list[str]) -> None:
    """Close the sandbox that the daemon at the other end of an inherited socket names, and serve it."""
    place, (log_bytes, memory_bytes, threads) = arguments[0], map(int, arguments[1:])
    end = socket.socket(fileno=int(place) if place.isdecimal() else received_link(place))
    enclosure = from_plain(Enclosure, Link(end).receive()[1])
    preload()
    child = os.fork()  # which has one thread, whatever was imported
    if child:
        end_as(child)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        if enclosure.kind == NAMESPACES:
            enter_server_namespaces()
    except OSError as error:
        Link(end).send(["unclosed", str(error)])
        os._exit(70)
    run_closed(end, enclosure, system_paths(enclosure.hidden), log_bytes, memory_bytes, threads)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])

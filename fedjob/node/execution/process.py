"""The program of a worker process: it takes work orders, performs each and sends back its result.

It was forked from the fork server, leads its own session, and knows nothing but
the paths that its orders name. What user code writes to standard output and to
standard error, be it from C or from a child process, goes to two files of the task;
what it raises, `SystemExit` included, becomes a result.

Run as `python -m fedjob.node.execution.process FD LOG_BYTES MEMORY_BYTES THREADS`
where a launcher wants a command.
"""

from __future__ import annotations

import io
import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, pack, to_plain
from fedjob.common.errors import EncodeError, FedjobError, NodeFailure
from fedjob.common.files import private
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.execution.workbench import Workbench
from fedjob.messaging.token_bucket import TokenBucket
from fedjob.node.execution.link import Link
from fedjob.node.storage.secrets import hide, holds_secret
from fedjob.training_plans.child_tasks import ChildOrder, ChildOutcome, ChildRunner

RESULT_NAME = "result.mpk"
MAX_RESULT_BYTES = 200 << 20
MAX_EVENT_BYTES = 16 * 1024
EVENTS_PER_S = 20.0
EVENTS_AT_ONCE = 40.0
PROGRESS_EVERY_S = 0.25


def run(end: socket.socket, log_bytes: int, memory_bytes: int, threads: int) -> None:
    """Serve one daemon until it closes its end.

    Args:
        log_bytes: that Python code may write, per task and stream.
        memory_bytes: that it may allocate.
        threads: of torch.
    """
    sys.stdin = open(os.devnull)  # noqa: SIM115
    os.dup2(sys.stdin.fileno(), 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    import torch

    link = Link(end)
    benches: dict[str, Workbench] = {}
    link.send(["up"])
    while True:
        try:
            plain = link.receive()
        except EOFError:
            return
        _redirect_output(plain["log_paths"], log_bytes)
        order = from_plain(WorkOrder, plain)
        torch.set_num_threads(threads)  # anew for each: user code may have changed it
        bench = benches.setdefault(str(order.dataset.get("name", "")), Workbench())  # a job may use several
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
    except FedjobError as error:
        plain = to_plain(WorkResult(key=order.key, ok=False, reason=error.reason, detail=str(error)[:1000]))
        packed = pack(plain)
    try:
        # Whole before the daemon hears of it: killed from here on, it finds this and need not train again.
        # Not fsynced: against power cuts there are the parameters' own fsync and the daemon's commit.
        unfinished = Path(order.output_path) / f".{RESULT_NAME}"
        with open(unfinished, "wb", opener=private) as file:
            file.write(packed)
        unfinished.rename(unfinished.with_name(RESULT_NAME))
    except OSError as error:
        plain = to_plain(
            WorkResult(key=order.key, ok=False, reason="no_space", detail="the node can't store the result")
        )
        sys.stderr.write(f"storing a result failed: {error}\n")
    return plain


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


def _redirect_output(paths: dict[str, str], limit_bytes: int) -> None:
    """Let both streams, and their file descriptors, lead to the files of a task."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(paths[name], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
        # What C code or a child process writes goes past this limit: the daemon cuts the file.
        setattr(sys, name, BoundedLog(number, limit_bytes - os.fstat(number).st_size))


def main(arguments: list[str]) -> None:
    """Serve the daemon at the other end of an inherited socket."""
    descriptor, log_bytes, memory_bytes, threads = map(int, arguments)
    run(socket.socket(fileno=descriptor), log_bytes, memory_bytes, threads)


if __name__ == "__main__":
    main(sys.argv[1:])

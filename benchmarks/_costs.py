"""The costs of a federation's processes by kind, and the floor of the machine for moving a model."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from _federation import BenchFederation

BLOCK_BYTES = 1 << 18
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Cost:
    """What processes of one kind have used: processor seconds, and bytes of files that they changed on a disk."""

    seconds: float = 0.0
    written_bytes: int = 0

    def plus(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.written_bytes + other.written_bytes)

    def since(self, before: Cost) -> Cost:
        return Cost(self.seconds - before.seconds, self.written_bytes - before.written_bytes)


class Costs:
    """Sums up what the federation's processes use, those among them that end meanwhile.

    Args:
        watching_s: returns the processor seconds that other measuring threads of this process have used. Neither they
            nor what it takes to look are counted as the researcher's.
    """

    def __init__(self, bench: BenchFederation, watching_s: Callable[[], float] = lambda: 0.0) -> None:
        self._watching_s, self._looking_s = watching_s, 0.0
        self._roots = {os.getpid(): "researcher", bench.hub.pid: "hub"}
        self._roots |= {node.pid: "nodes" for node in bench.nodes}
        self._history: list[tuple[float, dict[int, Cost]]] = []
        self._last: dict[int, Cost] = {}
        self._kinds: dict[int, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Costs:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def by_kind(self, since: float = 0.0) -> dict[str, Cost]:
        """Return what the researcher, the hub, its broker, the nodes and their workers have used.

        Args:
            since: seconds since 1970, to `LOOK_S` exactly; 0 for the whole time.
        """
        first = next((costs for at, costs in reversed(self._history) if at <= since), self._history[0][1])
        found: dict[str, Cost] = {}
        for pid, last in self._last.items():
            kind = self._kinds[pid]
            found[kind] = found.get(kind, Cost()).plus(last.since(first.get(pid, Cost())))
        return found

    @property
    def seconds(self) -> float:
        """Processor seconds of all of them."""
        return sum(cost.seconds for cost in self.by_kind().values())

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        began = time.thread_time()
        for root, kind in self._roots.items():
            with suppress(psutil.Error):
                process = psutil.Process(root)
                self._note(process, kind)
                below = {"hub": "broker", "nodes": "workers"}.get(kind, kind)
                for each in process.children(recursive=True):
                    self._note(each, below)
        self._history.append((time.time(), dict(self._last)))
        self._looking_s += time.thread_time() - began

    def _note(self, process: psutil.Process, kind: str) -> None:
        with suppress(psutil.Error):
            times = process.cpu_times()
            own_s = self._looking_s + self._watching_s() if process.pid == os.getpid() else 0.0
            seconds = times.user + times.system - own_s
            self._last[process.pid] = Cost(seconds, process.io_counters().write_bytes)
            self._kinds[process.pid] = kind


def floor_s(folder: Path, size_bytes: int, transfers: int) -> float:
    """Return the seconds in which this machine moves a file so often, and does nothing else.

    Each time it is hashed, sent by `sendfile` over loopback, and hashed and written to a new file where it arrives; as
    many at a time as there are processors. Nothing is synced.
    """
    source = folder / "floor"
    with source.open("wb") as file:
        for _ in range(0, size_bytes, 1 << 20):
            file.write(os.urandom(1 << 20))
    try:
        began = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda number: _move(source, folder / f"floor-{number}"), range(transfers)))
        return time.perf_counter() - began
    finally:
        source.unlink()


def _move(source: Path, target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send, args=(source, server.getsockname()))
        sender.start()
        connection, _ = server.accept()
        digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
        with connection, target.open("wb", buffering=0) as file:
            while count := connection.recv_into(block):
                digest.update(block[:count])
                file.write(block[:count])
        sender.join()
    target.unlink()


def _send(source: Path, address: tuple[str, int]) -> None:
    with source.open("rb") as file, socket.create_connection(address) as connection:
        hashlib.file_digest(file, "sha256")
        connection.sendfile(file)

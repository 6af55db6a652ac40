"""The private memory of processes, and the most of it while something runs."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_S = 0.005


def private_bytes(pid: int) -> int:
    """Return a process's private memory that no file backs: it can't be dropped under pressure."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass
class Peak:
    """The most private memory that a process has had, above what it had at the beginning."""

    pid: int
    bytes: int = 0

    def __post_init__(self) -> None:
        self.began_with = private_bytes(self.pid)

    def look(self) -> None:
        self.bytes = max(self.bytes, private_bytes(self.pid) - self.began_with)


class Watch:
    """Looks at processes every `LOOK_S` until it is left."""

    def __init__(self, *peaks: Peak) -> None:
        self._peaks = peaks
        self.watching_s = 0.0
        """Processor seconds that the looking itself has used."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            for peak in self._peaks:
                peak.look()
            self.watching_s = time.thread_time()
